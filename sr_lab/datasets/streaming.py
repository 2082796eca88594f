"""Training pairs from shards that are fetched while training: for sets that outgrow one disk."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sr_lab.datasets.cache import in_parallel
from sr_lab.datasets.images import list_images, read_image
from sr_lab.datasets.patches import Degradation, PatchBatch, PatchDataset, RandomDegradation
from sr_lab.datasets.shards import ShardedImages, ShardOrder, Shards, read_index
from sr_lab.errors import ConfigError, DataError


class StreamingDataset(PatchDataset):
    """Patches of images in shards that ``task=shard`` wrote.

    Image, patch and flip of a sample are a function of seed and sample number, as everywhere: a resume, other
    workers and other ranks see the same. Only the order is another than that of the same images in a
    folder: images are mixed within ``shuffle_shards`` shards, which are drawn anew in every pass.

    Args:
        shards_dir: Folder or address of the shards: ``https://``, ``s3://`` (needs s3fs), ``gs://`` (gcsfs).
        val_dir: Folder of validation images.
        val_count: The first so many of them; ``None``: all.
        shuffle_shards: Shards whose images are mixed, and which are needed at a time.
        cache_gb: 10^9 bytes of shards that are kept in ``cache_dir``; those in a local folder are read there.
        scale: See `PatchDataset`, as all that follow.
        lr_patch_size: Side of the LR patch.
        degradation: Bicubic, whose LR images the shards hold, or a random one.
        cache_dir: Folder for fetched shards.
        seed: Seed of the stream.
        augment: Draw flips and transpositions.

    Raises:
        ConfigError: A number below 1, an address of an unknown kind, or too small a ``cache_gb``.
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
            val_files=list_images(Path(val_dir).expanduser())[:val_count],
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
        used = min(2 * shuffle_shards, len(self.index.shards))  # a group and the next
        need = used * max(shard.size for shard in self.index.shards)
        if not self.shards.local and need > cache_gb * 1e9:
            raise ConfigError(
                f"dataset.cache_gb: {cache_gb:g} GB do not hold the {used} shards in use; "
                f"set dataset.cache_gb={need / 1e9:.1f} or more, or lower dataset.shuffle_shards"
            )
        self._hr = ShardedImages(self.shards, "hr")
        if not isinstance(degradation, RandomDegradation):
            kind = f"x{scale}-{degradation.name}"
            if kind not in self.index.lr:
                raise DataError(
                    f"dataset.shards_dir: {shards_dir} holds no LR images {kind}, only "
                    f"{', '.join(self.index.lr) or 'HR'}; "
                    f"write them again with task=shard lr_scales=[{scale}]"
                )
            self._lr = ShardedImages(self.shards, kind, scale=scale)
        self._order = self._shard_order = ShardOrder(
            [len(shard.images) for shard in self.index.shards], mixed=shuffle_shards
        )
        self._fetching: tuple[int, int] | None = None

    def __getitems__(self, samples: Sequence[int]) -> PatchBatch:
        """See `PatchDataset`; the shards that come next are fetched in the background."""
        self._look_ahead(samples[-1])
        return super().__getitems__(samples)

    def prepare(self) -> None:
        """Check the validation images, and the sizes of all others; shards are fetched when needed."""
        in_parallel(read_image, self.val_files)
        self._check_hr()

    def manifest(self) -> str:
        """SHA-256 over the shards' contents, their mixing and the validation files."""
        facts = [shard.sha256 for shard in self.index.shards]
        facts += sorted(f"{file.name} {file.stat().st_size}" for file in self.val_files)
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    def _look_ahead(self, sample: int) -> None:
        """Fetch the shards of the group after that of a sample."""
        number, place = divmod(sample, len(self))
        current = self._shard_order.of_pass(self.seed, number)
        here = int(np.searchsorted(current.ends, place, side="right"))
        if self._fetching == (number, here):
            return
        self._fetching = (number, here)
        last = here + 1 == len(current.groups)
        following = (
            self._shard_order.of_pass(self.seed, number + 1).groups[0] if last else current.groups[here + 1]
        )
        self.shards.coming([*current.groups[here], *following])
