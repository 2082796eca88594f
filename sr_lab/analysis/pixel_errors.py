"""Where a result differs from the HR image: at edges or in flat regions, in coarse or fine detail."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sr_lab.analysis.spectrum import Spectrum, psd

EDGE_SHARE = 0.2  # share of the pixels that count as edges: those with the strongest gradients
_BINS = 64  # number of bins of a mean spectrum


@dataclass(frozen=True)
class Errors:
    """The errors of one result on luma.

    Args:
        map: ``(H, W)``, absolute error in grey levels, 0 to 255; empty for the mean over several images.
        edges: Mean squared error at the edges of the HR image, in squared grey levels.
        flat: Mean squared error elsewhere, in squared grey levels.
        spectrum: Power spectral density of the error.
    """

    map: Tensor
    edges: float
    flat: float
    spectrum: Spectrum


def errors(sr: Tensor, hr: Tensor) -> Errors:
    """Compare a result with the HR image.

    Args:
        sr: Luma of the result, ``(H, W)`` in [0, 255], without the border that the protocol crops.
        hr: Luma of the HR image, also without that border.
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


def mean(found: Sequence[Errors]) -> Errors:
    """The mean over images of any sizes; each image has the same weight."""
    grid = np.arange(_BINS) / (2 * _BINS) + 1 / (4 * _BINS)
    powers = [np.interp(grid, each.spectrum.frequency, each.spectrum.power) for each in found]
    return Errors(
        torch.empty(0, 0),
        math.fsum(each.edges for each in found) / len(found),
        math.fsum(each.flat for each in found) / len(found),
        Spectrum(torch.from_numpy(grid), torch.from_numpy(np.mean(powers, axis=0))),
    )


def wins(psnrs: Mapping[str, float], others: Mapping[str, float]) -> list[tuple[str, float]]:
    """Each image with the PSNR of one network minus that of another in dB, best first."""
    gains = [(image, psnrs[image] - others[image]) for image in psnrs if image in others]
    return sorted(gains, key=lambda each: each[1], reverse=True)
