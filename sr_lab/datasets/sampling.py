"""Choose the image, patch and flip of a sample from nothing but the seed and the sample number.

Since there is no state, a resumed run sees the same samples, and so does a run with more workers or devices.
The random numbers come from SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) and are the same on every platform.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

_GAMMA = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio
_WORD = 2**64

# One stream of random numbers for each quantity that is drawn.
_PERMUTATION, _TOP, _LEFT, _DIHEDRAL, _KEY = range(5)

Order: TypeAlias = Callable[[int, int, int], NDArray[np.int64]]  # seed, pass number, image count -> indices


class Draw(NamedTuple):
    """Where each of N samples is cut and how it is flipped, as arrays ``(N,)``."""

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
    order: Order,
) -> Draw:
    """Draw samples of an endless stream; every pass takes each image once.

    Args:
        samples: Sample numbers, from 0 up, in any order.
        seed: Seed of the run.
        heights: Height of every image, ``(num_images,)``.
        widths: Width of every image.
        patch_size: Side of the square that is cut; at most the smallest height or width.
        order: Order of the images in a pass: `permutation`, or an order from `shard_pass`.

    Returns:
        Index of the image, position of the patch and code of the flip, each uniform and independent.
    """
    numbers = np.asarray(samples, dtype=np.uint64)
    num_images = len(heights)
    passes, places = np.divmod(numbers, np.uint64(num_images))
    image = np.empty(len(numbers), dtype=np.int64)
    for number in np.unique(passes).tolist():
        here = passes == number
        image[here] = order(seed, number, num_images)[places[here]]
    return Draw(
        image=image,
        top=_below(heights[image] - patch_size + 1, random_bits(seed, _TOP, numbers)),
        left=_below(widths[image] - patch_size + 1, random_bits(seed, _LEFT, numbers)),
        dihedral=(random_bits(seed, _DIHEDRAL, numbers) >> np.uint64(61)).astype(np.uint8),
    )


def keys(samples: Sequence[int], *, seed: int) -> list[int]:
    """A 64-bit integer for each sample: the seed of its random degradation."""
    return [int(bits) for bits in random_bits(seed, _KEY, np.asarray(samples, dtype=np.uint64))]


@lru_cache(maxsize=4)
def permutation(seed: int, number: int, count: int) -> NDArray[np.int64]:
    """Order of ``count`` images in pass ``number``."""
    pass_seed = int(random_bits(seed, _PERMUTATION, np.array([number], dtype=np.uint64))[0])
    order = np.argsort(random_bits(pass_seed, _PERMUTATION, np.arange(count, dtype=np.uint64)), kind="stable")
    order.flags.writeable = False  # the cache returns this array to every caller
    return order


class ShardPass(NamedTuple):
    """One pass over the images of all shards."""

    images: NDArray[np.int64]  # indices in the order of the pass, ``(num_images,)``
    groups: list[list[int]]  # shards whose images are shuffled together
    ends: NDArray[np.int64]  # number of images up to the end of each group


@lru_cache(maxsize=4)
def shard_pass(sizes: tuple[int, ...], mixed: int, seed: int, number: int) -> ShardPass:
    """Pass ``number``: shards in random order, with the images of every ``mixed`` shards shuffled together.

    Every pass has each image once; a reader needs only the shards of one group at a time.

    Args:
        sizes: Number of images in each shard.
        mixed: Number of shards in a group.
        seed: Seed of the run.
        number: Number of the pass.
    """
    first = np.concatenate([[0], np.cumsum(sizes)])
    shards = permutation(seed, number, len(sizes)).tolist()
    groups = [shards[start : start + mixed] for start in range(0, len(shards), mixed)]
    parts = []
    for place, group in enumerate(groups):
        images = np.concatenate([np.arange(first[shard], first[shard + 1]) for shard in group])
        parts.append(images[permutation(seed, ((number + 1) << 32) + place, len(images))])
    order = np.concatenate(parts)
    order.flags.writeable = False  # the cache returns this array to every caller
    return ShardPass(order, groups, np.cumsum([len(part) for part in parts]))


def random_bits(seed: int, stream: int, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 random bits for each number: outputs of the SplitMix64 generator with this seed and stream."""
    start = _mix(np.array([seed % _WORD], dtype=np.uint64)) + np.uint64(stream)
    return _mix(_mix(start) + (numbers + np.uint64(1)) * np.uint64(_GAMMA))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64; array arithmetic is modulo 2^64."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _below(limits: NDArray[np.int64], bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Integers in ``[0, limit)`` from the upper 32 bits; the bias is below limit / 2^32."""
    return (((bits >> np.uint64(32)) * limits.astype(np.uint64)) >> np.uint64(32)).astype(np.int64)
