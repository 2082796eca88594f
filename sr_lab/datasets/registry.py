"""Where to download the usual image sets, and how to check a download.

Digests and sizes are published values; the comment above each names its source. If no digest is published,
the pixels are compared (`sr_lab.datasets.facts`); if no pixels are published either, the digest of the first
download is recorded and every later one must match it (`sr_lab.datasets.install.Store`).
"""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Archive(NamedTuple):
    """One file to download; each of its addresses serves the same bytes.

    Args:
        urls: Its addresses, tried in this order.
        members: Regular expression that matches the whole path of a wanted image in the archive.
        digest: ``sha256:...`` or ``md5:...`` as published; ``None`` if none is published.
        size: Length in bytes as published.
    """

    urls: tuple[str, ...]
    members: str
    digest: str | None = None
    size: int | None = None

    @property
    def name(self) -> str:
        """File name in the first address."""
        return self.urls[0].rpartition("/")[2]


@dataclass(frozen=True)
class ImageSet:
    """A set of images in one folder.

    Args:
        name: Name in papers.
        folder: The folder below ``paths.data_dir`` from which the data sets and benchmarks of ``conf/`` read
            the set.
        count: Number of images.
        archives: Archives that contain the set, tried in this order.
        numbers: If the images are named by numbers, the first number and the number of digits.
        by_hand: Why the set cannot be downloaded automatically, and where to ask for it.
        chosen_by: The override with which ``task=prepare`` downloads it.
    """

    name: str
    folder: str
    count: int
    archives: tuple[Archive, ...] = ()
    numbers: tuple[int, int] | None = None
    by_hand: str = ""
    chosen_by: str = ""

    def missing(self, images: Iterable[Path]) -> list[str]:
        """Names of missing images, if the names are numbers."""
        if self.numbers is None:
            return []
        first, digits = self.numbers
        there = {image.stem for image in images}
        names = (f"{number:0{digits}d}" for number in range(first, first + self.count))
        return [name for name in names if name not in there]


# SHA-256 and length: tensorflow/datasets, tensorflow_datasets/url_checksums/div2k.txt.
# A mirror has archives with the same names: huggingface.co/datasets/goodfellowliu/DIV2K.
def _div2k(part: str, digest: str, size: int) -> tuple[Archive, ...]:
    hosts = (
        "https://data.vision.ee.ethz.ch/cvl/DIV2K",
        "https://huggingface.co/datasets/goodfellowliu/DIV2K/resolve/main",
    )
    urls = tuple(f"{host}/{part}.zip" for host in hosts)
    return (Archive(urls, rf"{part}/\d{{4}}\.png", f"sha256:{digest}", size),)


# Addresses and MD5: Coloquinte/torchSR, torchsr/datasets/flickr2k.py and benchmarks.py (the archives of EDSR,
# Lim et al., CVPRW 2017). cv.snu.ac.kr publishes no digest.
_EDSR = "https://cv.snu.ac.kr/research/EDSR"

# Address: deepinv/deepinv, deepinv/datasets/flickr2k.py; HR images only, no published digest of the archive.
_FLICKR2K_HF = "https://huggingface.co/datasets/goodfellowliu/Flickr2K/resolve/main/Flickr2K.zip"


def _benchmark(name: str, theirs: str, count: int, digest: str | None = None) -> ImageSet:
    # Addresses of the second archive: deepinv/deepinv, deepinv/datasets/{set5hr,set14hr,cbsd100,urban100}.py.
    hugging_face = f"https://huggingface.co/datasets/eugenesiow/{theirs}/resolve/main/data/{theirs}_HR.tar.gz"
    image = r"[^/]+\.(png|bmp|jpg)"
    archives = (
        Archive(
            (f"{_EDSR}/benchmark.tar",),
            f"benchmark/{name}/HR/{image}",
            "md5:4ace41d33c2384b97e6b320cd0afd6ba",
        ),
        Archive((hugging_face,), f"(.*/)?{theirs}_HR/{image}", digest),
    )
    return ImageSet(name, f"benchmarks/{name}/HR", count, archives, chosen_by=f"benchmark={name.lower()}")


IMAGE_SETS = (
    ImageSet(
        "DIV2K (train)",
        "DIV2K/DIV2K_train_HR",
        800,
        _div2k(
            "DIV2K_train_HR", "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335", 3530603713
        ),
        numbers=(1, 4),
        chosen_by="dataset=div2k",
    ),
    ImageSet(
        "DIV2K (validation)",
        "DIV2K/DIV2K_valid_HR",
        100,
        _div2k(
            "DIV2K_valid_HR", "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc", 448993893
        ),
        numbers=(801, 4),
        chosen_by="dataset=div2k",
    ),
    ImageSet(
        "Flickr2K",
        "Flickr2K/Flickr2K_HR",
        2650,
        (
            Archive(
                (f"{_EDSR}/Flickr2K.tar",),
                r"Flickr2K/Flickr2K_HR/\d{6}\.png",
                "md5:5d3f39443d5e9489bff8963f8f26cb03",
            ),
            Archive((_FLICKR2K_HF,), r"Flickr2K/(Flickr2K_HR/)?\d{6}\.png"),
        ),
        numbers=(1, 6),
        chosen_by="dataset=flickr2k",
    ),
    _benchmark("Set5", "Set5", 5),
    _benchmark("Set14", "Set14", 14),
    _benchmark("B100", "BSD100", 100),
    # MD5: deepinv/deepinv, examples (download_and_extract_archive of Urban100_HR.tar.gz).
    _benchmark("Urban100", "Urban100", 100, "md5:65d9d84a34b72c6f7ca1e26a12df1e4c"),
    ImageSet(
        "Manga109",
        "benchmarks/Manga109/HR",
        109,
        by_hand="its terms forbid redistribution; ask its authors (http://www.manga109.org/en/download.html)",
    ),
)


def named(folders: Iterable[str | Path], data_dir: Path) -> list[ImageSet]:
    """The image sets that belong in these folders."""
    wanted = {Path(folder).expanduser().absolute() for folder in folders}
    return [known for known in IMAGE_SETS if (data_dir / known.folder).absolute() in wanted]


# Names that other data sets and repositories give to a test set, in lower case -> its name in papers.
OTHER_NAMES = {"bsd100": "B100", "bsds100": "B100", "cbsd100": "B100"}


def _is_same_set(name: str, other: str) -> bool:
    name, other = (OTHER_NAMES.get(each.lower(), each).lower() for each in (name, other))
    return name == other


def benchmark_dirs(data_dir: Path, name: str) -> list[Path]:
    """The folders that may hold a test set's HR images, best first; the first exists if any does.

    That is ``<data_dir>/benchmarks/<name>/HR`` or, if that is missing, the same folder with another spelling
    of the name: ``BSD100`` for ``B100``, ``set5`` for ``Set5``. ``DIV2K`` means its 100 validation images;
    if there is no such folder, the folder of ``dataset=div2k`` is used.
    """
    folder = data_dir / "benchmarks" / name / "HR"
    if folder.is_dir():
        return [folder]
    others = sorted(other for other in data_dir.glob("benchmarks/*/HR") if other.is_dir())
    if found := [other for other in others if _is_same_set(other.parent.name, name)]:
        return found
    return [data_dir / "DIV2K" / "DIV2K_valid_HR" if name == "DIV2K" else folder]


def benchmark_dir(data_dir: Path, name: str) -> Path:
    """The first of `benchmark_dirs`."""
    return benchmark_dirs(data_dir, name)[0]


def how_to_get(folder: Path) -> str:
    """How to get the images that belong in a folder, as the end of a sentence; empty for unknown images."""
    for known in IMAGE_SETS:
        parts = Path(known.folder).parts
        if folder.parts[-len(parts) :] == parts:
            if known.by_hand:
                return f"; {known.name} cannot be downloaded: {known.by_hand}"
            data_dir = Path(*folder.parts[: -len(parts)])
            where = shlex.quote(f"paths.data_dir={data_dir}")
            return f"; task=prepare {known.chosen_by} {where} downloads {known.name}"
    return ""
