"""Power spectral density of features and images, averaged over all directions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sr_lab.analysis.stages import Stage

HIGH = 0.25  # cycles per pixel from which a frequency counts as high: half of the highest


@dataclass(frozen=True)
class Spectrum:
    """A one-dimensional power spectral density.

    Args:
        frequency: ``(K,)``, the centre of each bin in cycles per pixel, above 0 and at most 0.5.
        power: ``(K,)``, the mean power of the frequencies in each bin; v everywhere for white noise of
            variance v.
    """

    frequency: Tensor
    power: Tensor

    @property
    def decibels(self) -> Tensor:
        """``10 log10(power)``; -inf where the power is 0."""
        return 10 * torch.log10(self.power)

    @property
    def high(self) -> float:
        """Mean power of the high frequencies in dB."""
        return float(10 * torch.log10(self.power[self.frequency >= HIGH].mean()))

    @property
    def share(self) -> float:
        """High frequencies' share of the power up to 0.5 cycles/pixel, whatever the features' magnitude."""
        # The number of frequencies in a ring is proportional to its radius.
        energy = self.power * self.frequency
        return float(energy[self.frequency >= HIGH].sum() / energy.sum().clamp_min(1e-300))


def psd(features: Tensor, *, bins: int | None = None) -> Spectrum:
    """Radially averaged power spectral density, the mean over channels and images.

    The mean of each channel is removed and a Hann window applied, so that the jump between opposite borders
    of the image does not look like detail. The power is divided by the window's power.

    Args:
        features: ``(N, C, H, W)`` of any range.
        bins: Number of bins between 0 and 0.5 cycles per pixel; ``None``: half of the shorter side.
    """
    height, width = features.shape[-2:]
    bins = max(1, min(height, width) // 2) if bins is None else bins
    features = features.double()
    window = _hann(height, features)[:, None] * _hann(width, features)[None]
    windowed = (features - features.mean((-2, -1), keepdim=True)) * window
    power = torch.fft.fft2(windowed).abs().square().mean((0, 1)) / window.square().sum()
    rows = torch.fft.fftfreq(height, dtype=torch.float64, device=features.device)[:, None]
    columns = torch.fft.fftfreq(width, dtype=torch.float64, device=features.device)[None]
    radius = (rows.square() + columns.square()).sqrt()
    # Bin k has the radii in (k, k + 1] / (2 bins); the mean at 0 and the corners beyond 0.5 are left out.
    index = (radius * 2 * bins - 1e-9).floor().long()
    inside = (radius > 0) & (index < bins)
    counts = torch.bincount(index[inside], minlength=bins)
    sums = torch.bincount(index[inside], weights=power[inside], minlength=bins)
    frequency = (torch.arange(bins, dtype=torch.float64) + 0.5) / (2 * bins)
    held = (counts > 0).cpu()
    return Spectrum(frequency[held], (sums / counts.clamp_min(1)).cpu()[held])


def lacking(found: list[Stage]) -> list[str]:
    """Names of the blocks whose output has less power at high frequencies than the previous block's output.

    Two Strategies (Fig. 1) draws these blocks dashed. The head is not a block.
    """
    blocks = [stage for stage in found if stage.module != "head"]
    high = [psd(stage.output).high for stage in blocks]
    return [blocks[k].name for k in range(1, len(blocks)) if high[k] < high[k - 1]]


def _hann(size: int, like: Tensor) -> Tensor:
    if size < 3:
        return torch.ones(size, dtype=like.dtype, device=like.device)
    return torch.hann_window(size + 2, periodic=False, dtype=like.dtype, device=like.device)[1:-1]
