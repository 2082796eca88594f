"""The pictures of ``task=analyze`` below a folder of runs, for its page."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sr_lab import files
from sr_lab.reporting.page_images import encoded

_MOST = 12  # pictures, each of which adds about 0.1 MB to the page
_WIDTH = 1400  # of a picture on the page, in pixels
_MAX_PIXELS = 40_000_000


@dataclass(frozen=True)
class Analysis:
    """One picture.

    Args:
        place: The file, relative to the folder of the page.
        says: What the picture shows, and of which networks.
        source: The picture as a data URI.
        width: Width on the page, in pixels.
        height: Height on the page, in pixels.
    """

    place: str
    says: str
    source: str
    width: int
    height: int


def find(root: Path) -> tuple[list[Analysis], int]:
    """The pictures by path, and how many more there are than a page shows.

    A picture is recognised by what `sr_lab.analysis.drawing.written` has recorded in it.
    """
    paths = sorted(path for path in files.below(root) if path.suffix == ".png" and _says(path) is not None)
    found = [_shown(path, root) for path in paths[:_MOST]]
    return found, len(paths) - len(found)


def _says(path: Path) -> str | None:
    """The description in a picture of ``task=analyze``; ``None`` for any other file."""
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            about, pixels = picture.info, picture.width * picture.height
    except Exception:  # decoders raise many exception types
        return None
    made_by, says = about.get("Software"), about.get("Description")
    is_ours = isinstance(made_by, str) and made_by.startswith("sr_lab task=analyze")
    return str(says) if is_ours and isinstance(says, str) and pixels <= _MAX_PIXELS else None


def _shown(path: Path, root: Path) -> Analysis:
    with Image.open(path, formats=("PNG",)) as picture:
        image = picture.convert("RGB")
    image.thumbnail((_WIDTH, image.height))
    place = files.printable(path.relative_to(root).as_posix())
    return Analysis(place, _says(path) or "", encoded(image, lossless=False), image.width, image.height)
