"""Which pixels of the LR image a result depends on."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sr_lab.errors import ConfigError

_RADIUS = 4
_SIGMA = 1.2  # LR pixels; standard deviation of the blur at the beginning of the path


@dataclass(frozen=True)
class Attribution:
    """How much each LR pixel contributes to a window of the result.

    Args:
        map: ``(h, w)``, not negative, with maximum 1.
        diffusion_index: ``(1 - Gini coefficient) * 100``: 100 if all pixels contribute equally, near 0 if
            the whole contribution comes from one pixel.
    """

    map: Tensor
    diffusion_index: float


def local_attribution(
    network: nn.Module, lr: Tensor, box: tuple[int, int, int, int], *, steps: int = 50
) -> Attribution:
    """Local attribution map (LAM; Gu and Dong, CVPR 2021), with the constants of its authors' code.

    The gradient of the edge strength inside the window is integrated along a path from a blurred LR image to
    the LR image itself; the blur shrinks at each step.

    Args:
        network: A network on RGB or luma.
        lr: ``(1, C, h, w)`` in [0, 1].
        box: Window of the SR image as left, top, width and height in SR pixels.
        steps: Number of steps along the path.

    Raises:
        ConfigError: The window extends beyond the SR image.
    """
    left, top, width, height = box
    path = [_blurred(lr, _SIGMA * (1 - step / steps)) for step in range(steps + 1)]
    total = torch.zeros_like(lr)
    for step in range(1, steps + 1):
        image = path[step].detach().requires_grad_()
        sr = network(image)
        if left < 0 or top < 0 or left + width > sr.shape[-1] or top + height > sr.shape[-2]:
            raise ConfigError(
                f"crop: the window {left},{top},{width},{height} extends beyond the result of "
                f"{sr.shape[-1]}x{sr.shape[-2]} pixels"
            )
        window = sr[..., top : top + height, left : left + width]
        (gradient,) = torch.autograd.grad(_edges(window), image)
        total += gradient * (path[step] - path[step - 1])
    return _normalised(total.sum((0, 1)).abs())


def receptive_field(network: nn.Module, lr: Tensor) -> Attribution:
    """Effective receptive field of the central SR pixel (Luo et al., NeurIPS 2016).

    Args:
        network: A network on RGB or luma.
        lr: ``(N, C, h, w)`` in [0, 1]; the absolute gradients are averaged over images and channels.
    """
    image = lr.detach().clone().requires_grad_()
    sr = network(image)
    centre = sr[..., sr.shape[-2] // 2, sr.shape[-1] // 2].sum()
    (gradient,) = torch.autograd.grad(centre, image)
    return _normalised(gradient.abs().mean((0, 1)))


def side_of(field: Tensor, share: float = 0.95) -> int:
    """Side of the smallest centred square that holds a share of a map, in LR pixels."""
    height, width = field.shape
    total = field.sum()
    for radius in range(max(height, width)):
        rows = slice(max(0, height // 2 - radius), height // 2 + radius + 1)
        columns = slice(max(0, width // 2 - radius), width // 2 + radius + 1)
        if field[rows, columns].sum() >= share * total:
            return 2 * radius + 1
    return 2 * max(height, width) + 1


def gini(values: Tensor) -> float:
    """Gini coefficient of values of at least 0: 0 if all are equal, near 1 if one value makes up the sum."""
    ordered = values.flatten().double().sort().values
    count = ordered.numel()
    total = ordered.sum()
    if total == 0:
        return 0.0
    ranks = torch.arange(1, count + 1, dtype=torch.float64, device=ordered.device)
    return float((2 * ranks - count - 1).mul(ordered).sum() / (count * total))


def _normalised(values: Tensor) -> Attribution:
    values = values.detach()
    # A map without any contribution stays zero.
    return Attribution(values / values.max().clamp_min(1e-30), 100 * (1 - gini(values)))


def _edges(window: Tensor) -> Tensor:
    """Sum of the gradient magnitudes, the edge detector of the authors' code."""
    horizontal = window[..., :-1, 1:] - window[..., :-1, :-1]
    vertical = window[..., 1:, :-1] - window[..., :-1, :-1]
    # The square root has no derivative at 0, its value where there is no edge.
    return (horizontal.square() + vertical.square()).clamp_min(1e-12).sqrt().sum()


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with the 9x9 kernel of the authors' code."""
    if sigma < 1e-6:
        return image
    positions = torch.arange(-_RADIUS, _RADIUS + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-positions.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, -1)
    padded = F.pad(image, (_RADIUS,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, None], groups=image.shape[1])
    return F.conv2d(rows, kernel[..., None], groups=image.shape[1])
