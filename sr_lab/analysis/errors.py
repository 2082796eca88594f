"""Where a result differs from the HR image: at edges or in flat regions, in coarse or fine detail."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sr_lab.analysis.spectrum import Spectrum, psd

EDGE_SHARE = 0.2  # of the pixels, those with the strongest gradients, count as edges


@dataclass(frozen=True)
class Errors:
    """The errors of one result on luma.

    Args:
        map: ``(H, W)``, absolute error in grey levels of 255.
        edges: Mean squared error at the edges of the HR image, in squared grey levels.
        flat: The same elsewhere.
        spectrum: Power of the error over frequency.
    """

    map: Tensor
    edges: float
    flat: float
    spectrum: Spectrum


def errors(sr: Tensor, hr: Tensor) -> Errors:
    """Compare a result with the HR image.

    Args:
        sr: Luma of the result, ``(H, W)`` in [0, 255], without the border that the protocol shaves off.
        hr: The same of the HR image.
    """
    difference = sr.double() - hr.double()
    squared = difference.square()
    at_edges = edges(hr)
    return Errors(
        difference.abs(),
        float(squared[at_edges].mean()),
        float(squared[~at_edges].mean()),
        psd(difference[None, None]),
    )


def edges(hr: Tensor) -> Tensor:
    """The pixels with the strongest gradients, ``(H, W)`` bool; a constant image has none."""
    hr = hr.double()
    rows, columns = torch.gradient(hr)
    strength = (rows.square() + columns.square()).flatten()
    count = max(1, int(EDGE_SHARE * strength.numel()))
    mask = torch.zeros_like(strength, dtype=torch.bool)
    mask[strength.argsort(descending=True, stable=True)[:count]] = True
    return (mask & (strength > 0)).view_as(hr)


def wins(psnrs: Mapping[str, float], others: Mapping[str, float]) -> list[tuple[str, float]]:
    """Images by the PSNR of the first network minus that of the second in dB, best first."""
    gains = [(image, psnrs[image] - others[image]) for image in psnrs if image in others]
    return sorted(gains, key=lambda each: each[1], reverse=True)
