"""Photographs that come with scikit-image, for trying things out without a download."""

from importlib.util import find_spec
from pathlib import Path

from sr_lab.datasets.patches import Degradation, PatchDataset, RandomDegradation
from sr_lab.errors import DataError

_TRAIN = ("coffee.png", "motorcycle_left.png", "retina.jpg", "hubble_deep_field.jpg", "ihc.png")
_VAL = ("rocket.jpg",)
_TEST = ("astronaut.png", "chelsea.png")


class SamplePhotographs(PatchDataset):
    """Five photographs for training and one for validation: far too few for meaningful results.

    The arguments are those of `PatchDataset`.

    Raises:
        DataError: The installed scikit-image does not have these photographs.
    """

    def __init__(
        self,
        *,
        scale: int,
        lr_patch_size: int = 48,
        degradation: Degradation | RandomDegradation,
        cache_dir: str,
        seed: int = 0,
        augment: bool = True,
    ) -> None:
        super().__init__(
            files=_photographs(_TRAIN),
            val_files=_photographs(_VAL),
            scale=scale,
            lr_patch_size=lr_patch_size,
            degradation=degradation,
            cache_dir=cache_dir,
            seed=seed,
            augment=augment,
        )


def benchmark_photographs() -> list[Path]:
    """The two photographs of the benchmark ``sample``; neither is in the training set."""
    return _photographs(_TEST)


def training_photographs() -> list[Path]:
    """The training photographs."""
    return _photographs(_TRAIN)


def _photographs(names: tuple[str, ...]) -> list[Path]:
    spec = find_spec("skimage")  # finds the package without the slow import
    if spec is None or spec.origin is None:
        raise DataError("dataset: the sample photographs come with scikit-image; install scikit-image")
    files = [Path(spec.origin).parent / "data" / name for name in names]
    for file in files:
        if not file.is_file():
            raise DataError(f"dataset: the installed scikit-image has no {file}; reinstall scikit-image")
    return files
