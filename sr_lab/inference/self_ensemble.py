"""Self-ensemble (Timofte et al., CVPR 2016; the "+" of EDSR+): the mean over the symmetries of a square."""

import torch
from torch import Tensor, nn

from sr_lab.layers.network import colour_of, scale_of


class SelfEnsemble(nn.Module):
    """A network that upscales an image in its eight flips and rotations, and returns the mean of the results.

    Args:
        network: The network, or the backend that runs it.

    Shape:
        lr ``(N, C, H, W)`` in [0, 1] -> sr ``(N, C, rH, rW)``, not clamped.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.colour = colour_of(network)
        self.scale = scale_of(network)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale a batch eight times."""
        total: Tensor | None = None
        for code in range(8):
            sr = _back(self.network(_turned(lr, code)), code)
            total = sr if total is None else total + sr
        assert total is not None
        return total / 8


def _turned(images: Tensor, code: int) -> Tensor:
    """As in `sr_lab.ops.dihedral`, for images that need not be square, all with the same code."""
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if code & bit]
    flipped = images.flip(axes) if axes else images
    return flipped.transpose(-2, -1).contiguous() if code & 4 else flipped


def _back(images: Tensor, code: int) -> Tensor:
    """The inverse of `_turned`."""
    upright = images.transpose(-2, -1) if code & 4 else images
    axes = [axis for bit, axis in ((1, -1), (2, -2)) if code & bit]
    return torch.flip(upright, axes) if axes else upright
