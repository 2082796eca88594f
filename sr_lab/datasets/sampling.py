"""Which image, which patch and which flip a sample gets: a function of the seed and its number, nothing else.

No state means that resuming, another number of workers or of devices does not change what a network sees.
Random numbers come from SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), the same on every platform.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

_GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio
_WORD = 2**64

# One stream of random numbers for each thing that is drawn.
_PERMUTATION, _TOP, _LEFT, _DIHEDRAL, _KEY = range(5)


Order: TypeAlias = Callable[[int, int, int], NDArray[np.int64]]


class Draw(NamedTuple):
    """What each of N samples is cut from; arrays ``(N,)``."""

    image: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    dihedral: NDArray[np.uint8]  # 0..7, see `sr_lab.ops.dihedral.dihedral`


def draw(
    samples: Sequence[int],
    *,
    seed: int,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    patch_size: int,
    order: Order | None = None,
) -> Draw:
    """Draw samples of an endless stream; every pass over the images takes each of them once.

    Args:
        samples: Numbers of the samples, from 0 up, in any order.
        seed: Seed of the run.
        heights: Height of every image, ``(num_images,)``.
        widths: Width of every image.
        patch_size: Side of the square that is cut; at most the smallest height or width.
        order: Order of the images in a pass, as `permutation` gives it, the default.

    Returns:
        Index of the image, position of the patch and code of its flip, uniform and independent.
    """
    numbers = np.asarray(samples, dtype=np.uint64)
    num_images = len(heights)
    passes, places = np.divmod(numbers, np.uint64(num_images))
    image = np.empty(len(numbers), dtype=np.int64)
    for number in np.unique(passes).tolist():
        here = passes == number
        image[here] = (order or permutation)(seed, number, num_images)[places[here]]
    return Draw(
        image=image,
        top=_below(heights[image] - patch_size + 1, random_bits(seed, _TOP, numbers)),
        left=_below(widths[image] - patch_size + 1, random_bits(seed, _LEFT, numbers)),
        dihedral=(random_bits(seed, _DIHEDRAL, numbers) >> np.uint64(61)).astype(np.uint8),
    )


def keys(samples: Sequence[int], *, seed: int) -> list[int]:
    """A whole number of 64 bits for each sample, the seed of what else is random about it."""
    return [int(bits) for bits in random_bits(seed, _KEY, np.asarray(samples, dtype=np.uint64))]


@lru_cache(maxsize=4)
def permutation(seed: int, number: int, count: int) -> NDArray[np.int64]:
    """Order of ``count`` images in one pass over them, the pass with this number."""
    pass_seed = int(random_bits(seed, _PERMUTATION, np.array([number], dtype=np.uint64))[0])
    order = np.argsort(random_bits(pass_seed, _PERMUTATION, np.arange(count, dtype=np.uint64)), kind="stable")
    order.flags.writeable = False  # the cache hands it to every caller
    return order


def random_bits(seed: int, stream: int, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 random bits for each number: outputs of the SplitMix64 generator of this seed and stream."""
    start = _mix(np.array([seed % _WORD], dtype=np.uint64)) + np.uint64(stream)
    return _mix(_mix(start) + (numbers + np.uint64(1)) * np.uint64(_GAMMA))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64; arithmetic of arrays is modulo 2^64."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _below(limits: NDArray[np.int64], bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Whole numbers in ``[0, limit)`` from the upper 32 bits; the bias is below limit / 2^32."""
    return (((bits >> np.uint64(32)) * limits.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
