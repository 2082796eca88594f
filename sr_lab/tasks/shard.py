"""``task=shard``: write the training images of a dataset into shards, which ``dataset=streaming`` reads."""

from collections.abc import Sequence
from pathlib import Path

from sr_lab.config import targets
from sr_lab.config.schema import ShardConfig
from sr_lab.datasets.patches import PatchDataset
from sr_lab.datasets.shard_writing import write_shards
from sr_lab.datasets.streaming import StreamingDataset
from sr_lab.errors import ConfigError
from sr_lab.tasks import common


def run(config: ShardConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Write the missing shards.

    Raises:
        ConfigError: The dataset consists of shards already, or has its own LR images.
        DataError: An image is broken, or the folder cannot be written.
    """
    dataset = targets.build("dataset", config.dataset, config.allow)
    has_no_files = not isinstance(dataset, PatchDataset) or isinstance(dataset, StreamingDataset)
    if has_no_files or dataset.lr_files is not None:
        raise ConfigError("task=shard: needs HR images in files; set dataset=folder, div2k, flickr2k or df2k")
    index = write_shards(
        dataset.files, folder, images_per_shard=config.images_per_shard, lr_scales=config.lr_scales
    )
    size = sum(shard.size for shard in index.shards) / 1e9
    held_out = len(dataset.val_files)
    without = f" (without the {held_out} that are held out for validation)" if held_out else ""
    shards = "1 shard" if len(index.shards) == 1 else f"{len(index.shards)} shards"
    common.console.print(f"{len(dataset.files)} images{without} in {shards}, {size:.2f} GB: {folder}")
