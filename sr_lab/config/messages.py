"""Errors of Hydra and OmegaConf as sentences for the user."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sr_lab import files
from sr_lab.config import suggestions
from sr_lab.config.allowed import DESCRIBED
from sr_lab.errors import SRLabError, did_you_mean
from sr_lab.files import conf_dir


def explain(error: Exception) -> str | None:
    """An error as one sentence: ours unchanged, Hydra's and OmegaConf's reworded, ``None`` for any other."""
    said = _reworded(error)
    return None if said is None else files.printable(said)  # it may name an untrusted file


def _reworded(error: Exception) -> str | None:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, SRLabError):
            return str(link)
    if isinstance(error, OSError) and error.filename is not None:  # a missing file, a read-only or full disk
        what = f"cannot use '{error.filename}': {error.strerror}"
        return f"{what}; fix that, or choose another folder with paths.output_dir or paths.cache_dir"
    if "Config group override must be a string" in str(error):
        return "a group takes the name of one of its options, got something else; --help lists the options"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = next((str(link) for link in chain if str(link)), type(error).__name__)
    missing = re.search(r"Could not find '([^']*)'\s+Available options in '([^']*)':((?:\n\t\S+)*)", text)
    if missing:
        return _no_option(missing[2], missing[1].removeprefix(f"{missing[2]}/"), missing[3].split())
    unknown = re.search(r"Could not override '([^']*)'(?:.*\n.*?=(.*))?", text)
    if unknown:
        return _unknown_key(_key_within(unknown[1], chain), unknown[2] or "", _task(chain))
    interpolation = re.search(r"Interpolation key '([^']*)' not found\n\s*full_key: (\S+)", text)
    if interpolation:
        return _no_such_key(interpolation[2], interpolation[1])
    several = re.match(r"Ambiguous value for argument '([^=]*)=(.*)'\n", text)
    if several:
        return _several_values(several[1], several[2])
    return " ".join(text.partition("See https://hydra.cc")[0].split())


def _key_within(typed: str, chain: Sequence[BaseException]) -> str:
    """The key that does not exist: the typed key, or a key inside the dictionary typed as its value."""
    if typed in _groups():
        return typed
    keys = [str(link.full_key) for link in chain if isinstance(link, OmegaConfBaseException)]
    return next((key for key in keys if key.startswith(f"{typed}.")), typed)


def _task(chain: Sequence[BaseException]) -> str:
    """The task in the configuration that an error of OmegaConf comes from."""
    nodes = [getattr(link, "parent_node", None) for link in chain]
    tasks = [str(node.task) for node in nodes if isinstance(node, DictConfig) and "task" in node]
    return tasks[0] if tasks else "train"


def _no_such_key(place: str, key: str) -> str:
    """The message about a ``${key}`` that names no setting."""
    settings = OmegaConf.load(conf_dir() / "config.yaml")
    known = [*(str(name) for name in settings if name != "defaults"), *_groups()]
    if "." in key and (group := key.partition(".")[0]) in _groups():
        return (
            f"{place}: refers to ${{{key}}}, which the chosen option of '{group}' does not set; add it there"
        )
    near = "" if "." in key else did_you_mean(key, known)
    return f"{place}: refers to ${{{key}}}, which is not a setting; correct it{near}"


def _groups() -> list[str]:
    return sorted(path.name for path in conf_dir().iterdir() if path.is_dir())


def _no_option(group: str, given: str, found: Sequence[str]) -> str:
    """The message about an option that a group does not have; lists its options, or those of a sub-folder."""
    options = sorted({*found, *suggestions.options(group)})
    near = did_you_mean(given, options)
    if group in DESCRIBED and not difflib.get_close_matches(given.lower(), options, n=1, cutoff=0.7):
        near += "; an option of your own needs --config-dir <folder that contains its groups>"
    folder = (near.partition("'")[2] if near else given).partition("/")[0]
    if given in {option.partition("/")[0] for option in options if "/" in option}:
        folder, near = given, ""
    listed = [option for option in options if option.startswith(f"{folder}/")] or [
        *(option for option in options if "/" not in option),
        *sorted({f"{option.partition('/')[0]}/..." for option in options if "/" in option}),
    ]
    return f"{group}: there is no option {given!r}; allowed: {', '.join(listed)}{near}"


def _several_values(key: str, value: str) -> str:
    """The message about a comma outside a sweep."""
    bare = value.replace("'", "")
    if (conf_dir() / key).is_dir():
        return f"{key}: takes one option, got {bare}; for a sweep write -m {key}={bare}"
    return (
        f"{key}: got several values, {bare}; for a sweep write -m {key}={value}, "
        f"for a list '{key}=[{bare}]', for one string with a comma \"{key}='{bare}'\""
    )


def _unknown_key(key: str, value: str, task: str) -> str:
    """The message about a command-line key that the composed configuration does not have.

    Args:
        key: The key.
        value: Its value, or an empty string if Hydra's error does not quote it.
        task: The chosen task.
    """
    groups = _groups()
    top, _, rest = key.partition(".")
    if key in groups:
        allowed = ", ".join(suggestions.options(key))
        return (
            f"{key}: takes the name of one of its options, got {value}; allowed: {allowed}; "
            f"settings of an option are written one by one, as {key}.<setting>=..."
        )
    settings = OmegaConf.load(conf_dir() / "config.yaml")
    keys = sorted({*groups, *(str(name) for name in settings if name != "defaults")})
    if not rest or top not in keys:
        return unknown_setting(key, task, keys, "group or setting")
    known: set[str] = set()
    for found in [
        OmegaConf.select(settings, top),
        *(OmegaConf.load(path) for path in (conf_dir() / top).glob("*.yaml")),
    ]:
        if isinstance(found, DictConfig):
            known.update(str(name) for name in found if name not in ("defaults", "_target_"))
    if rest in known:
        return f"{key}: the chosen option of '{top}' has no such setting; choose another, or leave {key} out"
    add = f"; write +{key} to add an argument of the class" if top in DESCRIBED else ""
    return f"{key}: there is no such setting in '{top}'{add}{suggestions.instead(key, known)}"


# What a task has in place of a setting of another task.
_HAS_INSTEAD = {
    "train": {
        "ckpt": "init_ckpt",
        "input": "dataset.hr_dir",
        "hr_dir": "dataset.hr_dir",
        "output": "paths.output_dir",
        "folder": "paths.data_dir",
        "name": "run_name",
    },
    "evaluate": {"init_ckpt": "ckpt", "runs": "ckpt", "input": "benchmark", "output": "paths.output_dir"},
    "upscale": {
        "init_ckpt": "ckpt",
        "runs": "ckpt",
        "folder": "input",
        "hr_dir": "input",
        "sr_dir": "output",
    },
    **{
        task: {
            **dict.fromkeys(("ckpt", "init_ckpt"), "ckpts"),
            "runs": "own_runs",
            "hr_dir": "hr",
            "folder": "output",
        }
        for task in ("analyze", "compare")
    },
    "export": {"init_ckpt": "ckpt", "runs": "ckpt", "input": "ckpt", "folder": "output"},
    "demo": {"init_ckpt": "ckpt", "runs": "ckpt"},
    "measure": {"input": "sr_dir", "folder": "sr_dir", "output": "paths.output_dir"},
    "prepare": {"folder": "paths.data_dir", "output": "paths.data_dir", "input": "dataset"},
    "doctor": {"input": "folder", "hr_dir": "folder", "sr_dir": "folder"},
    "shard": {"input": "dataset.hr_dir", "hr_dir": "dataset.hr_dir", "folder": "dataset.hr_dir"},
    **{task: {"ckpt": "runs", "folder": "runs"} for task in ("report", "status", "dashboard", "log")},
}


def unknown_setting(key: str, task: str, known: Iterable[str], what: str = "setting") -> str:
    """The message about a setting that a task does not have.

    Args:
        key: The setting.
        task: The chosen task.
        known: The settings that the task has.
        what: What the key could name, for the message.
    """
    has = _HAS_INSTEAD.get(task, {})
    if owners := [
        f"task={name}" for name in suggestions.options("task") if _sets(conf_dir() / f"task/{name}.yaml", key)
    ]:
        use = f"use {has[key]} instead" if key in has else f"leave {key} out"
        return f"{key}: is a setting of {' and '.join(owners)}, and this is task={task}; {use}"
    if name := suggestions.ours(key):
        name = has.get(name, name)
        return f"{key}: there is no such setting; use '{name}' instead"
    places = [
        group.name for group in sorted(conf_dir().iterdir()) if any(_sets(o, key) for o in group.glob("*"))
    ]
    if places:
        return (
            f"{key}: is a setting of a group; write {' or '.join(f'{place}.{key}=...' for place in places)}"
        )
    listed = sorted(known)
    near = did_you_mean(key.partition(".")[0], listed)
    return f"{key}: there is no such {what}; allowed: {', '.join(listed)}{near}"


def _sets(path: Path, key: str) -> bool:
    """Whether a file of ``conf/`` sets a key at its top level."""
    return (
        path.is_file()
        and re.search(rf"^{re.escape(key)}:", path.read_text(encoding="utf-8"), re.M) is not None
    )
