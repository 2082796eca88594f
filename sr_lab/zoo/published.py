"""Weights that the authors of networks published: where each file is, its digest, its PSNR and SSIM on Set5.

`published.csv` has a row for each network and scale. A name like ``zoo/rlfn_x4`` stands for such a file
wherever a checkpoint is expected; `sr_lab.checkpoints.fetching` downloads it.
"""

import csv
import difflib
import functools
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from sr_lab.errors import CheckpointError

PREFIX = "zoo/"
_HOST = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class Published:
    """One network at one scale, a row of `published.csv`.

    Args:
        model: Value of ``model=``.
        scale: Upscaling factor; some files are for several scales.
        num_params: Number of parameters of our network; a file with several scales has more.
        repository: ``owner/name`` on GitHub.
        commit: The commit that has the file.
        path: Path of the file in the repository.
        size: Length of the file in bytes.
        sha256: Digest of the file.
        licence: Licence of the repository, or ``none stated``.
        protocol: Name of the protocol with which the values below were measured (``benchmark.protocol``).
        psnr_y: PSNR on the luma of Set5 in dB, measured with the authors' own code.
        ssim_y: SSIM on the luma of Set5.
        printed: PSNR and SSIM as the authors print them, ``32.24/0.8952``.
    """

    model: str
    scale: int
    num_params: int
    repository: str
    commit: str
    path: str
    size: int
    sha256: str
    licence: str
    protocol: str
    psnr_y: float
    ssim_y: float
    printed: str

    @property
    def name(self) -> str:
        """The name without the prefix, ``rlfn_x4``."""
        return f"{self.model}_x{self.scale}"

    @property
    def has_licence(self) -> bool:
        """Whether the repository states a licence."""
        return self.licence != "none stated"

    @property
    def place(self) -> str:
        """Where the file is below a mirror's address."""
        return f"{self.repository}/{self.commit}/{self.path}"

    @property
    def address(self) -> str:
        """Where the authors published the file."""
        return f"{_HOST}/{self.place}"

    def file(self) -> Path:
        """Where the downloaded file is kept; its name states the scale, which not all weights determine."""
        return cache_dir() / "zoo" / f"{self.name}{PurePosixPath(self.path).suffix}"


def cache_dir() -> Path:
    """The folder ``SR_LAB_CACHE``, by default ``~/.cache/sr_lab``."""
    return Path(os.environ.get("SR_LAB_CACHE", "~/.cache/sr_lab")).expanduser()


@functools.cache
def published() -> dict[str, Published]:
    """All published weights by name."""
    text = (Path(__file__).parent / "published.csv").read_text(encoding="utf-8")
    rows = [
        Published(
            model=row["model"],
            scale=int(row["scale"]),
            num_params=int(row["num_params"]),
            repository=row["repository"],
            commit=row["commit"],
            path=row["path"],
            size=int(row["bytes"]),
            sha256=row["sha256"],
            licence=row["licence"],
            protocol=row["protocol"],
            psnr_y=float(row["psnr_y_set5"]),
            ssim_y=float(row["ssim_y_set5"]),
            printed=row["published_set5"],
        )
        for row in csv.DictReader(text.splitlines(), strict=True)
    ]
    return {row.name: row for row in rows}


def named(path: str, key: str = "ckpt") -> Published | None:
    """The published weights that a setting names, or ``None`` if it names a file or folder.

    Args:
        path: The setting's value. An existing file or folder is never taken for a name.
        key: The setting, for error messages.

    Raises:
        CheckpointError: The value begins with ``zoo/``, but there are no such weights.
    """
    if not path.startswith(PREFIX) or Path(path).exists():
        return None
    name = path.removeprefix(PREFIX)
    if name in published():
        return published()[name]
    model = name.rpartition("_x")[0] or name
    like = [each for each, row in published().items() if row.model == model]
    like = like or difflib.get_close_matches(name, published(), n=3, cutoff=0.5)
    nearest = f"the nearest are {', '.join(PREFIX + each for each in like)}; " if like else ""
    raise CheckpointError(f"{key}: there is no '{path}'; {nearest}task=zoo lists all {len(published())}")


def with_digest(sha256: str, scale: int) -> Published | None:
    """The published weights for a scale in the file with this digest, ``None`` if there are none."""
    found = (entry for entry in published().values() if (entry.sha256, entry.scale) == (sha256, scale))
    return next(found, None)
