"""The page of one option: its comment, its class with every argument, its other settings, commands."""

import ast
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_lab.config.allowed import SLOTS
from sr_lab.files import PACKAGE, conf_dir
from sr_lab.help import data, layout, network, option, source
from sr_lab.help.option import Option
from sr_lab.help.source import Argument, Source

_INTERPOLATION = re.compile(r"\$\{([\w.]+)\}")
_TITLE = re.compile(r"^python -m sr_lab \S.*?\s{3,}(?=\S)")
_ALWAYS_SET = ("_target_", "_partial_")


@dataclass(frozen=True)
class Composed:
    """A composed configuration as plain values, and where its files are.

    Args:
        values: Its values; an interpolation that cannot be resolved stays as it is.
        raw: The same with every interpolation as written.
        choices: The chosen option of each group.
        places: The folders of ``conf/`` and of the search path.
        params: The axes of a sweep that a file sets (``hydra.sweeper.params``).
        typed: The keys of the command line.
    """

    values: Mapping[str, object]
    raw: Mapping[str, object]
    choices: Mapping[str, str]
    places: Sequence[Path]
    params: Mapping[str, object]
    typed: Sequence[str] = ()

    @property
    def data_dir(self) -> Path:
        """Where data is expected."""
        return Path(str(at(self.values, "paths.data_dir"))).expanduser()


def at(values: object, path: str) -> object:
    """The value of a dotted key; ``None`` if the key is not set."""
    for part in path.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def shown(value: object) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, bool) or value is None:
        return str(value).lower() if value is not None else "null"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {shown(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"{value}" or "''"


def default_of(argument: Argument) -> str | None:
    """The default of an argument as it is written on the command line, ``None`` if it has none."""
    if argument.default is None:
        return None
    try:
        return shown(ast.literal_eval(argument.default))
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return argument.default


def heading_of(found: Option) -> list[str]:
    """The comment at the top of an option's file; its title and its commands stay on lines of their own."""
    lines: list[str] = []
    waiting = ""
    for line in [*found.heading, ""]:
        text = _TITLE.sub("", line)  # the command before a title is printed at the end of the page
        command = re.match(r"\s{2,}|python -m sr_lab", text) is not None
        if waiting and (command or not text):
            lines += layout.wrapped(waiting, indent=2)
            waiting = ""
        if command:
            lines += layout.wrapped(text, indent=4, hanging=8)
        elif text != line:
            lines += layout.wrapped(text, indent=2)
        else:
            waiting = f"{waiting} {text}".strip()
    return lines


def title(group: str, name: str, found: Option | None) -> list[str]:
    """The first lines of a page."""
    head = f"{group}={name}"
    return [*layout.wrapped(head), "=" * min(len(head), layout.WIDTH), *(heading_of(found) if found else [])]


def of(composed: Composed, group: str, name: str) -> list[str]:
    """The lines of an option's page."""
    found = option.find(composed.places, group, name)
    lines = title(group, name, found)
    if found is None:
        return lines
    comments = _comments(composed, group, found)
    if found.sets_everything:
        lines += _chosen(found)
        rows = _settings(composed, found.values, comments, "")
        rows = [(left, right) for left, right in rows if left != f"task={name}"]
    else:
        node = at(composed.values, group)
        described = list(_described(node, group))
        for path, target in described:
            lines += _class_of(composed, group, name, path, target, comments)
        rows = _settings(composed, node, comments, f"{group}.", skip=[path for path, _ in described])
        rows = [] if group in dict(described) else rows
    if rows:
        lines += ["", "Settings", *layout.pairs(rows)]
    lines += _data(composed, group)
    needs = _needs(composed, group, found)
    rows = [(f"{command}{needs}", meaning) for command, meaning in _commands(composed, group, name)]
    return [*lines, "", "Commands", *layout.pairs(rows, column=6)]


def _needs(composed: Composed, group: str, found: Option | None) -> str:
    """What a command needs to find the user's own option and class, as the end of the command."""
    places = [place for place in composed.places if found is not None and found.file.is_relative_to(place)]
    if not places or (folder := places[0].resolve()) == conf_dir():
        return ""
    here = Path.cwd()
    place = folder.relative_to(here) if folder.is_relative_to(here) else folder
    ours = {PACKAGE.name, *(each.partition(".")[0] for slot in SLOTS.values() for each in slot.classes)}
    packages = {
        target.partition(".")[0] for _, target in _described(at(composed.values, group), group)
    } - ours
    allow = f" allow=[{','.join(sorted(packages))}]" if packages else ""
    return f" --config-dir {shlex.quote(str(place))}{allow}"


def _comments(composed: Composed, group: str, found: Option) -> dict[str, str]:
    """The comments of an option and of the options of its group that it is built on."""
    comments: dict[str, str] = {}
    for name in found.built_on:
        if (base := option.find(composed.places, group, name)) is not None:
            comments |= _comments(composed, group, base)
    return comments | dict(found.comments)


def _chosen(found: Option) -> list[str]:
    rows = [(f"{group}={name}", comment) for group, name, comment in found.chosen]
    return ["", "Chooses", *layout.pairs(rows)] if rows else []


def _described(node: object, path: str) -> Iterator[tuple[str, str]]:
    """The dotted name of each description in a group, including a sum's terms, and the class it names."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield path, str(node["_target_"])
        if "_target_" not in node or path == "loss":
            for key, child in node.items():
                yield from _described(child, f"{path}.{key}")


def _settings(
    composed: Composed, node: object, comments: Mapping[str, str], prefix: str, skip: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Rows with the composed value of every setting in ``node``, and the comment of the option's file."""
    rows: list[tuple[str, str]] = []
    for key, child in node.items() if isinstance(node, Mapping) else ():
        path = f"{prefix}{key}"
        value = at(composed.values, path)
        own = comments.get(key, "")
        if path in skip or key in (*_ALWAYS_SET, "defaults", "hydra"):
            continue
        if isinstance(child, Mapping) and child:
            inner = {
                name[len(key) + 1 :]: text for name, text in comments.items() if name.startswith(f"{key}.")
            }
            found = _settings(composed, child, inner, f"{path}.")
            rows += [(found[0][0], f"{own} {found[0][1]}".strip()), *found[1:]] if found else []
        elif value == "???":
            rows.append((f"{path}=...", f"{own}; must be set" if own else "must be set"))
        else:
            rows.append((f"{path}={shown(value)}", f"{own} {_from(composed, path)}".strip()))
    return rows


def _from(composed: Composed, path: str) -> str:
    """Where a value that refers to another setting comes from; empty for any other value."""
    raw = at(composed.raw, path)
    match = _INTERPOLATION.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        return ""
    group = match[1].partition(".")[0]
    if group in composed.choices:
        return f"Chosen by {group}={composed.choices[group]}."
    return f"Taken from {match[1]}={shown(at(composed.values, match[1]))}."


def _class_of(
    composed: Composed, group: str, name: str, path: str, target: str, comments: Mapping[str, str]
) -> list[str]:
    found = source.read(target)
    lines = ["", *layout.wrapped(f"Class {target}" if path == group else f"{path}: {target}", hanging=2)]
    if found is None:
        return [*lines, *layout.wrapped("Its source cannot be read.", indent=2)]
    ours = _is_ours(target)
    lines += layout.wrapped(found.summary, indent=2)
    for text in found.text if ours else ():
        lines += ["", *layout.wrapped(text, indent=2)]
    lines += _arguments(composed, path, target, found, comments)
    if group == "model":
        lines = [*_paper(found), *lines, *_network(composed, name, found)]
    for heading in ("Shape", "Note") if ours else ():
        for number, text in enumerate(source.paragraphs(found.sections.get(heading, ""))):
            lines += ["", heading] if number == 0 else [""]
            lines += layout.wrapped(text, indent=2)
    return lines


def _paper(found: Source) -> list[str]:
    lines = ["", "Paper", *layout.wrapped(found.module_doc.partition("\n\n")[0], indent=2)]
    lines += layout.wrapped(network.origin(found), indent=2)
    if network.opens_weights(found):
        lines += layout.wrapped(
            "sr_lab opens the authors' checkpoints: python -m sr_lab task=evaluate ckpt=<file>", indent=2
        )
    return lines


def _is_ours(target: str) -> bool:
    """Whether a class is ours or the user's; a library's docstrings are long, and can be read elsewhere."""
    return not any(target in slot.classes for slot in SLOTS.values())


def _arguments(
    composed: Composed, path: str, target: str, found: Source, comments: Mapping[str, str]
) -> list[str]:
    group, _, inner = path.partition(".")
    slots = [slot for slot in SLOTS.values() if slot.place.partition(".")[0] == group]
    supplied = {name for slot in slots for name in slot.supplied}
    node = at(composed.values, path)
    values = {str(key): value for key, value in node.items()} if isinstance(node, Mapping) else {}
    rows, others = [], []
    named = {argument.name for argument in found.arguments}
    extra = [Argument(key, None) for key in values if key not in (*named, *_ALWAYS_SET)]
    for argument in [*found.arguments, *extra]:
        if argument.name in supplied and argument.name not in values:
            continue
        if argument.name not in values and not _is_ours(target):
            others.append(f"{argument.name}={default_of(argument)}")
            continue
        comment = comments.get(f"{inner}.{argument.name}" if inner else argument.name, "")
        rows.append(_row(composed, path, argument, values, comment, ours=_is_ours(target)))
    lines: list[str] = []
    if rows:
        heading = f"Arguments, set with {path}.<name>=<value>"
        lines += ["", *layout.wrapped(heading, hanging=2), *layout.pairs(rows)]
    if others:
        how = f"Set one with {path}.<name>=<value>."
        text = f"Its other arguments and their defaults: {', '.join(others)}. {how}"
        lines += ["", *layout.wrapped(text, indent=2)]
    return lines


def _row(
    composed: Composed,
    path: str,
    argument: Argument,
    values: Mapping[str, object],
    comment: str,
    *,
    ours: bool,
) -> tuple[str, str]:
    """An argument with its value or default, and its meaning."""
    default = default_of(argument)
    meaning = re.sub(r"(?<!=)\bNone\b", "null", argument.meaning)  # as on the command line
    parts = [meaning or comment] if ours else [comment or re.split(r"(?<=[.;])\s", meaning)[0]]
    if argument.choices:
        parts.append(f"One of {', '.join(argument.choices)}.")
    if argument.name not in values:
        label = argument.name if default is None else f"{argument.name}={default}"
    else:
        value = values[argument.name]
        label = argument.name if isinstance(value, Mapping) else f"{argument.name}={shown(value)}"
        if value == "???":
            label, parts = f"{argument.name}=...", [*parts, "Must be set."]
        origin = _from(composed, f"{path}.{argument.name}")
        if ours and default is not None and value != "???" and not origin and not _same(argument, value):
            parts.append(f"The class's default is {default}.")
        parts.append(origin)
    return label, " ".join(_sentence(part) for part in parts if part)


def _same(argument: Argument, value: object) -> bool:
    """Whether a value is the default of an argument; lists and tuples are the same."""
    try:
        default = ast.literal_eval(argument.default or "None")
    except (ValueError, TypeError, SyntaxError, RecursionError):
        return False
    return bool((list(default) if isinstance(default, tuple) else default) == value)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", ":")) else f"{text}."


def _network(composed: Composed, name: str, found: Source) -> list[str]:
    options = option.groups(composed.places)
    lines = ["", "Takes", *layout.pairs(network.takes(found, options))]
    if any(key.startswith("model.") for key in composed.typed):
        return lines  # size and PSNR are those of the option without changes
    if table := network.cost(name):
        lines += ["", "Size (multiply-adds: all operations at a 1280x720 output)", *table]
    if table := network.printed(name):
        lines += ["", "Printed PSNR (the value that most papers print)", *table]
    return lines


def _data(composed: Composed, group: str) -> list[str]:
    if group == "dataset":
        folders = data.training(at(composed.values, "dataset"))
    elif group == "benchmark":
        sets = at(composed.values, "benchmark.sets")
        folders = data.testing(sets if isinstance(sets, list) else [], composed.data_dir)
    else:
        return []
    return ["", *data.state(folders, composed.data_dir)] if folders else []


def _commands(composed: Composed, group: str, name: str) -> list[tuple[str, str]]:
    """Three commands to start with, and what each does."""
    start = "python -m sr_lab"
    if group == "model":
        found = source.read(str(at(composed.values, "model._target_")))
        several = found is not None and network.takes_any_tail(found)
        axis, each = ("upsampler=native,deconv", "tail") if several else ("scale=2,3,4", "scale")
        return [
            (f"{start} model={name} scale=4", "trains the network, tests it and prints the table"),
            (f"{start} -m model={name} {axis}", f"one training run for each {each}, then one table"),
            (
                f"{start} -m task=complexity model={name} scale=2,3,4",
                "parameters, multiply-adds, memory, time",
            ),
        ]
    if group == "task":
        found_task = option.find(composed.places, "task", name)
        needed = [
            key for key in (found_task.values if found_task else ()) if at(composed.values, key) == "???"
        ]
        return [
            (" ".join([f"{start} task={name}", *(f"{key}=..." for key in needed)]), "runs the task"),
            (f"{start} task={name} --cfg job", "prints every setting of the task"),
        ]
    if group in ("dataset", "benchmark"):
        node = at(composed.values, group)
        must = [key for key, value in node.items() if value == "???"] if isinstance(node, Mapping) else []
        chosen = " ".join([f"{group}={name}", *(f"{group}.{key}=..." for key in must)])
        use = {"dataset": "trains on these images", "benchmark": "trains, then measures on these sets"}
        rows = [(f"{start} {chosen}", use[group])]
        if group == "benchmark":
            rows.append((f"{start} task=evaluate ckpt=<file> {chosen}", "measures a checkpoint on them"))
        if not must:
            rows.append((f"{start} task=prepare {chosen}", "downloads what can be downloaded, and checks it"))
        return [*rows, (f"{start} task=doctor folder=<folder>", "checks the images in a folder")]
    others = [each for each in option.groups(composed.places).get(group, []) if each not in (name, "none")]
    rows = [(f"{start} {group}={name}", _USES.get(group, "trains with it"))]
    if group in _COMPARED and others:
        rows.append((f"{start} -m {group}={name},{others[0]}", "trains with each, then prints one table"))
    return [*rows, (f"{start} {group}={name} --cfg job", "prints every setting with its value")]


_COMPARED = ("upsampler", "strategy", "schedule", "degradation", "loss", "optimizer")
_USES = {"hparams_search": "searches; the same command resumes the search"}
