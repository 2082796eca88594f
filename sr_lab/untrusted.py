"""Reading text that a stranger may have written: a run folder that was downloaded, a configuration to try.

What comes back is bounded in size and depth, and no text in it steers a terminal or breaks a page.
"""

import csv
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from sr_lab.files import at_once

_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

MAX_BYTES = 64 * 2**20  # of a record; a million steps have some 10 MiB
MAX_YAML_BYTES = 2**20
_MAX_NODES, _MAX_DEPTH = 100_000, 50
# What no terminal, XML or UTF-8 file takes as text, and what turns the direction of reading.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The text of a file; what is no UTF-8 is marked in it.

    Raises:
        OSError: There is no such file.
        ValueError: It is longer than ``max_bytes``.
    """
    with open(path, "rb", opener=at_once) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return content.decode(errors="replace")


def read_json(path: Path) -> object:
    """What a JSON file holds, in plain text and plain numbers (see `plain`).

    Raises:
        OSError: There is no such file.
        ValueError: It is no JSON, or too long or too deep.
    """
    try:
        return plain(json.loads(read_text(path)))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read_yaml(path: Path) -> object:
    """What a YAML file holds, in plain text and plain numbers (see `plain` and `check_yaml`).

    Raises:
        OSError: There is no such file.
        ValueError: It is no YAML, would build objects, or is too long or too deep.
    """
    text = read_text(path, max_bytes=MAX_YAML_BYTES)
    check_yaml(text)
    try:
        return plain(yaml.load(text, Loader=_SafeLoader))
    except (yaml.YAMLError, RecursionError, OverflowError) as error:
        raise ValueError(str(error).splitlines()[0]) from error


def check_yaml(text: str) -> None:
    """Refuse YAML that is larger than it looks: a few lines of anchors can stand for billions of values.

    Raises:
        ValueError: Written out it has too many values or too many levels, refers to itself, or is no YAML.
    """
    sizes: dict[str, int] = {}
    levels: list[tuple[str | None, int]] = [(None, 0)]  # what is open: its anchor, values so far
    try:
        for event in yaml.parse(text, Loader=_SafeLoader):
            if isinstance(event, yaml.CollectionStartEvent):
                levels.append((event.anchor, 1))
                size = 0
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = levels.pop()
                sizes |= {anchor: size} if anchor else {}
            elif isinstance(event, yaml.AliasEvent):
                size = sizes.get(event.anchor or "", _MAX_NODES + 1)  # not closed yet: it holds itself
            else:
                size = int(isinstance(event, yaml.ScalarEvent))
            levels[-1] = (levels[-1][0], levels[-1][1] + size)
            if levels[-1][1] > _MAX_NODES or len(levels) > _MAX_DEPTH:
                raise ValueError(f"it has more than {_MAX_NODES} values or {_MAX_DEPTH} levels, written out")
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def plain(value: object) -> object:
    """The same with nothing in its texts that steers a terminal or breaks a page, and keys that are texts.

    A whole number that no figure has becomes NaN.
    """
    if isinstance(value, str):
        return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    if isinstance(value, int) and abs(value) >= 2**63:
        return math.nan
    return value


def is_small(value: object, *, max_values: int = 10_000) -> bool:
    """Whether a container has few values, written out: one that holds itself, or another often, has not."""
    waiting, count = [value], 0
    while waiting and count <= max_values:
        current = waiting.pop()
        count += 1
        if isinstance(current, Mapping):
            waiting += current.values()
        elif isinstance(current, (list, tuple)):
            waiting += current
    return not waiting


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?inf|nan", re.ASCII | re.IGNORECASE)


def number(text: object) -> float:
    """A number as programs write it, NaN for any other text: ``float`` reads ``3_0`` and Arabic digits."""
    text = str(text).strip()
    return float(text) if _NUMBER.fullmatch(text) else math.nan


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, as long as they have a text for each column and are no more than that.

    Raises:
        OSError: There is no such file.
        ValueError: It is no CSV, too long, or has a column twice.
    """
    try:
        rows = list(csv.reader(read_text(path).splitlines(), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    columns = [str(plain(name)) for name in rows[0]] if rows else []
    if len(set(columns)) < len(columns):
        raise ValueError("it has a column twice")
    return [dict(zip(columns, row, strict=False)) for row in rows[1:] if row]
