"""Means over a test set that come out the same on any number of devices."""

import torch
from torch import Tensor
from torchmetrics import Metric

from sr_lab.errors import DataError


class MeanOverImages(Metric):
    """Mean of per-image PSNR or SSIM over a test set, as papers report it.

    torchmetrics' own PSNR pools the squared error over the set, which is up to 5 dB off; here every image
    counts the same, whatever its size and whichever device measured it.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Add images.

        Args:
            values: ``(N,)``, one for each image, as `sr_lab.protocol.Protocol.measure` returns them.
        """
        self.total += values.double().sum()
        self.count += values.numel()

    def compute(self) -> Tensor:
        """Mean over all images of all devices, float64; ``inf`` if one of them is.

        Raises:
            DataError: No image was added.
        """
        if self.count == 0:
            raise DataError("metrics: no image was measured; the test set is empty")
        return self.total / self.count
