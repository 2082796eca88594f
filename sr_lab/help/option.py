"""An option's yaml as text: its comments, and where the files of ``conf/`` are."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sr_lab import files
from sr_lab.help.source import place_of

_KEY = re.compile(r"""(\s*)(["']?)([^"'#{}\[\]]*?)\2:(?:\s.*)?""")


@dataclass(frozen=True)
class Option:
    """One file of a group."""

    file: Path
    heading: tuple[str, ...]  # the comment at its top, line by line
    comments: Mapping[str, str]  # the comment of each key, by its dotted name
    values: Mapping[str, object]  # its content
    sets_everything: bool  # whether it sets keys of the whole configuration (``@package _global_``)
    chosen: tuple[tuple[str, str, str], ...] = ()  # group, option and comment of its ``override`` lines
    built_on: tuple[str, ...] = ()  # other options that its ``defaults`` name


def folders(sources: Iterable[tuple[str, str]]) -> list[Path]:
    """The folders of Hydra's search path, found without importing a package.

    Args:
        sources: ``schema`` and ``path`` of each entry of ``hydra.runtime.config_sources``.
    """
    found: list[Path] = []
    for schema, path in sources:
        place = Path(path) if schema == "file" else None
        if schema == "pkg" and not path.startswith("hydra."):
            place = place_of(path.replace("/", "."))
        if place is not None and place.is_dir():
            found.append(place)
    return found


def groups(places: Iterable[Path]) -> dict[str, list[str]]:
    """Every group with its options, sorted; Hydra's own groups are left out."""
    found: dict[str, set[str]] = {}
    for place in places:
        for file in (path for path in files.below(place) if path.suffix == ".yaml"):
            group = file.parent.relative_to(place).as_posix()
            if group != "." and group.partition("/")[0] != "hydra":
                found.setdefault(group, set()).add(file.stem)
    return {group: sorted(found[group]) for group in sorted(found)}


def find(places: Iterable[Path], group: str, name: str) -> Option | None:
    """Read the option of a group."""
    for place in places:
        file = place / group / f"{name}.yaml"
        if file.is_file():
            return _parsed(file)
    return None


def _parsed(file: Path) -> Option:
    heading: list[str] = []
    comments: dict[str, str] = {}
    chosen: list[tuple[str, str, str]] = []
    built_on: list[str] = []
    path: list[tuple[int, str]] = []  # indentation and name of the keys around a line
    text = files.read_text(file, max_bytes=files.MAX_YAML_BYTES)
    for line in text.splitlines():
        code, comment = _split(line)
        if not code.strip():
            if not path:
                heading += [comment] if not comment.startswith("@package") else []
            elif comment:
                dotted = ".".join(name for _, name in path)
                comments[dotted] = f"{comments.get(dotted, '')} {comment}".strip()
            continue
        if path and path[0][1] == "defaults" and code.lstrip().startswith("-"):
            item = code.strip().removeprefix("-").strip()
            group, _, name = item.removeprefix("override ").partition(":")
            if item.startswith("override "):
                chosen.append((group.strip().lstrip("/"), name.strip(), comment))
            elif item != "_self_":
                built_on.append(item.lstrip("/"))
            continue
        if (match := _KEY.fullmatch(code)) is None:
            continue
        indent = len(match[1])
        path = [*(part for part in path if part[0] < indent), (indent, match[3])]
        if comment:
            comments[".".join(name for _, name in path)] = comment
    content = files.read_yaml(file)
    return Option(
        file=file,
        heading=tuple(heading),
        comments=comments,
        values=content if isinstance(content, dict) else {},
        sets_everything=re.search(r"^# @package _global_\s*$", text, re.MULTILINE) is not None,
        chosen=tuple(chosen),
        built_on=tuple(built_on),
    )


def _split(line: str) -> tuple[str, str]:
    """The code and the comment of a line; an indented comment is a command and keeps its indentation."""
    if line.lstrip().startswith("#"):
        return "", line.lstrip().removeprefix("#").removeprefix(" ")
    code, mark, comment = line.partition(" #")
    return code.rstrip(), comment.strip() if mark else ""
