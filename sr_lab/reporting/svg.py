"""Matplotlib figures as inline SVG, without style or script, in the colour of the page's text."""

import contextlib
import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import matplotlib
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

# Placeholder for the text colour of the page, which is unknown when a figure is drawn.
INK = "#010203"
# Prefix of the gid of a run's lines; in the page, the rest of the gid becomes ``data-run``.
RUN = "run-"
# Readable on white and on near-black, and distinct with any colour vision deficiency.
COLOURS = ("#2d77c4", "#d47d08", "#9339ff", "#837165", "#9b6632", "#8a90ae")
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"


@contextlib.contextmanager
def drawing(salt: str) -> Iterator[None]:
    """Matplotlib settings for figures that `inline` puts into a page; the salt makes their ids distinct."""
    settings: dict[RcKeyType, object] = {
        "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
        "svg.hashsalt": salt,
        "text.parse_math": False,  # $ in a name is not a formula
        "font.size": 9,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "grid.color": INK,
        "grid.alpha": 0.12,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser's font has the glyph
        yield


def inline(figure: Figure, *, label: str) -> str:
    """A figure made inside `drawing` as an ``<svg>``, with a label for screen readers.

    Style attributes become presentation attributes, which a strict content policy does not restrict.
    """
    content = io.BytesIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(content.getvalue())
    linked = set(re.findall(rb'href="#([^"]+)"|url\(#([^)]+)\)', content.getvalue()))
    kept = {part.decode() for pair in linked for part in pair if part}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        identifier = element.get("id", "")
        if identifier.startswith(RUN):
            element.set("data-run", identifier.removeprefix(RUN))
        if identifier not in kept:
            element.attrib.pop("id", None)
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))
        for declaration in element.attrib.pop("style", "").split(";"):
            name, _, value = (part.strip() for part in declaration.partition(":"))
            if name == "font":
                element.set("font-size", next((v for v in value.split() if v[0].isdigit()), "9px"))
            elif name:
                element.set(name, value)
        for name, value in element.attrib.items():
            if value.lower() == INK:
                element.set(name, "currentColor")
    for path in root.iter("path"):
        path.set("d", _rounded(path.get("d", "")))
    for text in root.iter("text"):
        text.attrib.setdefault("fill", "currentColor")
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {
        "xmlns": _SVG,
        "role": "img",
        "aria-label": label,
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    return ET.tostring(root, encoding="unicode")


def _rounded(path: str) -> str:
    """The data of an SVG path, rounded to tenths of a point, which are smaller than a pixel on any screen."""
    return re.sub(
        r"-?\d+\.\d+", lambda found: f"{float(found.group()):.1f}".removesuffix(".0"), " ".join(path.split())
    )
