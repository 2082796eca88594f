"""Training pairs from shards that are fetched during training, for sets that do not fit on a disk."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_lab.datasets.cache import in_parallel
from sr_lab.datasets.images import list_images, read_image
from sr_lab.datasets.patches import Degradation, PatchBatch, PatchDataset, RandomDegradation
from sr_lab.datasets.sampling import ShardPass, shard_pass
from sr_lab.datasets.shards import ShardedImages, Shards, read_index
from sr_lab.errors import ConfigError, DataError


class StreamingDataset(PatchDataset):
    """Patches of images in shards that ``task=shard`` wrote.

    A sample is a function of the seed and its number, as in every `PatchDataset`. The order of the images
    differs from the order of a folder's images: they are shuffled within groups of ``shuffle_shards`` shards,
    and every pass forms new groups.

    Args:
        shards_dir: Folder or address of the shards: ``https://``, ``s3://`` (needs s3fs), ``gs://`` (gcsfs).
        val_dir: Folder of validation images.
        val_count: How many images of ``val_dir`` to use, starting with the first. ``None``: all.
        shuffle_shards: Number of shards in a group; a group's shards are needed at the same time.
        cache_gb: Limit for the copies in ``cache_dir``, in 10^9 bytes; a local folder is read in place.

    The other arguments are those of `PatchDataset`. ``degradation`` is either random or bicubic; if
    bicubic, the LR images come from the shards.

    Raises:
        ConfigError: A number is below 1, the address has an unsupported scheme, or ``cache_gb`` is too small.
        DataError: The index is missing or broken, or has no LR images of this scale and degradation.
    """

    def __init__(
        self,
        *,
        shards_dir: str,
        val_dir: str,
        val_count: int | None = None,
        shuffle_shards: int = 8,
        cache_gb: float = 50.0,
        scale: int,
        lr_patch_size: int = 48,
        degradation: Degradation | RandomDegradation,
        cache_dir: str,
        seed: int = 0,
        augment: bool = True,
    ) -> None:
        for name, number in (("shuffle_shards", shuffle_shards), ("val_count", val_count)):
            if number is not None and number < 1:
                raise ConfigError(f"dataset.{name}: must be at least 1, got {number}")
        self.index = read_index(shards_dir)
        names = [image.name for shard in self.index.shards for image in shard.images]
        super().__init__(
            files=[Path(name) for name in names],
            val_files=list_images(Path(val_dir).expanduser(), where="dataset.val_dir")[:val_count],
            scale=scale,
            lr_patch_size=lr_patch_size,
            degradation=degradation,
            cache_dir=cache_dir,
            seed=seed,
            augment=augment,
        )
        self.shards = Shards(
            shards_dir,
            self.index,
            folder=Path(cache_dir).expanduser() / "shards",
            limit=cache_gb * 1e9,
            keep_open=2 * shuffle_shards,
        )
        used = min(2 * shuffle_shards, len(self.index.shards))  # this group and the next
        need = used * max(shard.size for shard in self.index.shards)
        if not self.shards.local and need > cache_gb * 1e9:
            raise ConfigError(
                f"dataset.cache_gb: {cache_gb:g} GB cannot hold the {used} shard(s) in use; "
                f"set dataset.cache_gb={need / 1e9:.1f} or more, or lower dataset.shuffle_shards"
            )
        self._hr = ShardedImages(self.shards, "hr")
        if not isinstance(degradation, RandomDegradation):
            kind = f"x{scale}-{degradation.name}"
            if kind not in self.index.lr:
                raise DataError(
                    f"dataset.shards_dir: {shards_dir} has no LR images {kind}, only "
                    f"{', '.join(self.index.lr) or 'HR'}; "
                    f"write the shards again with task=shard lr_scales=[{scale}]"
                )
            self._lr = ShardedImages(self.shards, kind, scale=scale)
        self._sizes = tuple(len(shard.images) for shard in self.index.shards)
        self._mixed = shuffle_shards
        self._order = self._images_of_pass
        self._fetching: tuple[int, int] | None = None

    def __getitems__(self, samples: Sequence[int]) -> PatchBatch:
        """See `PatchDataset`; the next shards are fetched in the background."""
        self._look_ahead(samples[-1])
        return super().__getitems__(samples)

    def prepare(self) -> None:
        """Check the validation images and the sizes of the training images; shards are fetched later."""
        in_parallel(read_image, self.val_files)
        self._check_hr()

    def bytes_to_prepare(self) -> int:
        """Nothing is written before training starts; training then fetches up to ``cache_gb``."""
        return 0

    def manifest(self) -> str:
        """SHA-256 of the shards' digests and of the names and sizes of the validation files."""
        facts = [shard.sha256 for shard in self.index.shards]
        facts += sorted(f"{file.name} {file.stat().st_size}" for file in self.val_files)
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    def _look_ahead(self, sample: int) -> None:
        """Fetch the shards of the sample's group and of the next group."""
        number, place = divmod(sample, len(self))
        current = self._pass(number)
        here = int(np.searchsorted(current.ends, place, side="right"))
        if self._fetching == (number, here):
            return
        self._fetching = (number, here)
        following = [*current.groups[here + 1 :], *self._pass(number + 1).groups][0]
        self.shards.prefetch([*current.groups[here], *following])

    def _pass(self, number: int) -> ShardPass:
        return shard_pass(self._sizes, self._mixed, self.seed, number)

    def _images_of_pass(self, seed: int, number: int, count: int) -> NDArray[np.int64]:
        return self._pass(number).images
