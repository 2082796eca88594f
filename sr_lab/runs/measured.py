"""What identifies an evaluation in addition to its settings: its checkpoint's network, and the images."""

import functools
import hashlib
import json
from pathlib import Path

from sr_lab.checkpoints.opening import described
from sr_lab.config.schema import EvaluateConfig
from sr_lab.datasets.benchmark import benchmark_files
from sr_lab.datasets.cache import digest_of


@functools.lru_cache(maxsize=1)  # called for the name of the folder, and by the task
def complete(config: EvaluateConfig, overrides: tuple[str, ...]) -> EvaluateConfig:
    """The configuration with the network in its checkpoint and the digest of its images.

    Raises:
        CheckpointError, ConfigError: See `open_configured`.
        DataError: The images are missing.
    """
    if config.ckpt is not None:
        config, _ = described(config, overrides, config.ckpt, note=lambda _: None)  # the task prints the note
    return config.model_copy(update={"images": images(config)})


def images(config: EvaluateConfig) -> str:
    """SHA-256 of the names and contents of the test images, independent of their folder."""
    data_dir = Path(config.paths.data_dir).expanduser()
    sets = {
        name: [(file.name, digest_of(file)) for file in benchmark_files(data_dir, name)]
        for name in config.benchmark.sets
    }
    return hashlib.sha256(json.dumps(sets, sort_keys=True).encode()).hexdigest()
