"""Test-set means that are equal on any number of devices; PSNR and SSIM themselves are in `ops.metrics`."""

import torch
from torch import Tensor
from torchmetrics import Metric

from sr_lab.errors import DataError


class MeanOverImages(Metric):
    """Mean of per-image PSNR or SSIM over a test set, as papers report it.

    torchmetrics' own PSNR pools the squared error over the set, which is up to 5 dB off; here every image has
    the same weight, regardless of its size. The mean is bit-identical to the mean on a single device: each
    image has its own position in a vector, and every device fills in the positions of its images, so the sum
    of the vectors is exact and the mean is taken in the order of the set.

    Args:
        count: Number of images in the set.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    values: Tensor
    measured: Tensor

    def __init__(self, count: int) -> None:
        super().__init__()
        self.add_state("values", torch.zeros(count, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("measured", torch.zeros(count, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, value: Tensor, place: int) -> None:
        """Record the value of one image.

        Args:
            value: ``(1,)``, as `sr_lab.protocol.Protocol.measure` returns it.
            place: Index of the image in the set.
        """
        self.values[place] += value.double().squeeze()
        self.measured[place] += 1

    def compute(self) -> Tensor:
        """Mean over all images of all devices, in float64; ``inf`` if any value is infinite.

        Raises:
            DataError: If an image was not measured, or was measured more than once.
        """
        if not len(self.measured):
            raise DataError("metrics: no image was measured; the test set is empty")
        if not bool((self.measured == 1).all()):
            left_out, twice = int((self.measured == 0).sum()), int((self.measured > 1).sum())
            raise DataError(
                f"metrics: images not measured: {left_out} of {len(self.measured)}; "
                f"images measured more than once: {twice}"
            )
        return self.values.mean()
