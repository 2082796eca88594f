"""``identity.json`` identifies the run in a folder, so that no other run, and no other code, continues it.

It is written when the run begins, and compared before the folder is used again. Folders of earlier versions
have no such file: their names end with a hash without the code, and ``config.yaml`` has their settings.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from sr_lab import files
from sr_lab.config.schema import Node
from sr_lab.errors import ConfigError
from sr_lab.run_folder import RunFolder, whole_rows

Code = dict[str, str]  # name of each module and the digest of its code, see `config.code`; empty if unknown

# Only settings that change the results; paths, loggers, devices, workers and benchmarks do not.
TRAINING = (
    *("model", "upsampler", "strategy", "schedule", "dataset", "degradation", "loss", "optimizer", "scale"),
    *("seed", "steps", "steps_per_epoch", "batch_size", "learning_rate", "ema_decay"),
    "validation",  # chooses the best checkpoint
)
NEUTRAL_TRAINER = {"accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm", "benchmark"} | {
    "accumulate_grad_batches", "detect_anomaly", "profiler", "log_every_n_steps", "enable_progress_bar"
}  # fmt: skip
IMAGES = ("manifest", "images", "validation_images", "sr", "hr")  # digests of images
NETWORK = ("model", "upsampler", "strategy", "scale")
MEASURING = (*NETWORK, "benchmark")
# Lightning's callbacks that stop a training run or change what it learns; its other callbacks only watch.
CHANGING = {
    *("EarlyStopping", "Timer", "SpikeDetection", "WeightAveraging", "StochasticWeightAveraging"),
    *("EMAWeightAveraging", "GradientAccumulationScheduler", "BaseFinetuning", "ModelPruning"),
    *("BatchSizeFinder", "LearningRateFinder"),
}


@dataclass(frozen=True)
class RunIdentity:
    """What identifies a run.

    Args:
        values: Its identity, with the code.
        earlier: Its identity in earlier versions, which left out the code.
        settings: Its settings, see `compared`.
        any_code: Whether it may continue a run that was begun with different code (``code=any``).
    """

    values: Node
    earlier: Node
    settings: Mapping[str, object]
    any_code: bool = False

    @property
    def code(self) -> Code:
        """Name and digest of each module."""
        code = self.values.get("code")
        return dict(code) if isinstance(code, dict) else {}


class Recorded(BaseModel):
    """The content of ``identity.json``."""

    model_config = ConfigDict(strict=True, ser_json_inf_nan="constants")  # otherwise they become null

    identity: Node  # without the code
    # The code at the beginning, and after each change that code=any allowed.
    codes: list[Code] = Field(min_length=1)


def hash8(values: Node) -> str:
    """The hash of a plain dictionary in eight hex digits; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def without_code(values: Node) -> Node:
    """An identity without its code."""
    return {key: value for key, value in values.items() if key != "code"}


def settings(values: Mapping[str, object]) -> dict[str, object]:
    """The settings that identify a training run, by their dotted names.

    Args:
        values: A configuration as plain values, e.g. the content of ``config.yaml``.
    """
    found = _flat(
        {
            key: values.get(key)
            for key in (*TRAINING, "budget", "trainer", "callbacks", "init_ckpt", "overfit_batches")
        }
        | {"freeze": values.get("freeze") or None}
    )
    benchmark = values.get("benchmark")
    if isinstance(benchmark, Mapping):  # validation is measured with the benchmark's protocol
        found["benchmark.protocol"] = benchmark.get("protocol")
    form = {"compile", "channels_last", "autotune", "timeout"}  # how the run is computed
    neutral = {f"trainer.{key}" for key in NEUTRAL_TRAINER | form} | {"budget.name"}
    return {key: found[key] for key in found if key not in neutral and not key.endswith(("_dir", "_gb"))}


def _flat(values: Mapping[str, object]) -> dict[str, object]:
    found: dict[str, object] = {}

    def add(key: str, value: object) -> None:
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                add(f"{key}.{name}" if key else str(name), inner)
        elif value is not None:  # an unset setting equals a missing one
            found[key] = value

    add("", values)
    return found


def read(folder: RunFolder) -> Recorded | None:
    """What `record` wrote; ``None`` in a folder of an earlier version, or if no file identifies the run.

    The results (``metrics.json``) are read instead if ``identity.json`` is damaged, or if neither it nor
    ``config.yaml`` exists, since earlier versions of ``task=measure`` wrote only the results.
    """
    with contextlib.suppress(OSError, ValueError):
        return Recorded.model_validate(files.read_json(folder.identity))
    if folder.config.exists() and not folder.identity.exists():
        return None
    with contextlib.suppress(OSError, ValueError):
        results = folder.read_metrics()
        values = results.get("identity") if isinstance(results, dict) else None
        if isinstance(values, dict):
            return Recorded(identity=without_code(values), codes=[values.get("code", {})])
    return None


def _is_earlier(folder: RunFolder) -> bool:
    """Whether an earlier version of sr_lab began the run."""
    return folder.has_begun() and folder.config.exists() and not folder.identity.exists()


def record(folder: RunFolder, known: RunIdentity, *, resumed: bool = False) -> list[Code]:
    """Record the run that begins or continues in a folder.

    Args:
        folder: The run folder, which has passed `refuse_another`.
        known: The run.
        resumed: Whether it continues an earlier attempt.

    Returns:
        The versions of the code before this attempt, oldest first.
    """
    held = read(folder) if resumed else None
    codes = held.codes if held is not None else [{}] if resumed else []
    codes = codes if codes[-1:] == [known.code] else [*codes, known.code]
    content = Recorded(identity=without_code(known.values), codes=codes)
    files.write(folder.identity, content.model_dump_json(indent=1) + "\n")
    return codes[:-1]


def with_other_code(known: RunIdentity, parent: Path) -> list[tuple[RunFolder, Code]]:
    """The runs with the same settings but other code at their start, newest first, each with its code."""
    own, found = hash8(without_code(known.values)), {}
    for path in parent.glob("*/identity.json"):
        held = read(folder := RunFolder(path.parent))
        if held is not None and hash8(held.identity) == own and held.codes != [known.code]:
            found[path.parent] = (folder, held.codes[0])
    for path in parent.glob(f"*-{hash8(known.earlier)}"):
        if _is_earlier(folder := RunFolder(path)) and not _differing(folder, known):
            found[path] = (folder, {})
    return sorted(found.values(), key=lambda pair: pair[0].since() or 0.0, reverse=True)


def refuse_another(folder: RunFolder, known: RunIdentity) -> None:
    """Refuse a folder that contains another run; ``hydra.run.dir`` can name any folder.

    Raises:
        ConfigError: The message says what differs.
    """
    trains = "task" not in known.values
    if read(folder) is None:
        if folder.identity.exists():
            use = " and set code=any" if trains else ""
            raise ConfigError(
                f"'{folder.identity}' is damaged, and no other file identifies the run in the folder; give "
                f"hydra.run.dir an empty folder, or remove the file{use} if the folder holds this run"
            )
        if not _is_earlier(folder):
            return
    if differing := _differing(folder, known):
        shown = ", ".join(differing[:4]) + (f" and {len(differing) - 4} more" if len(differing) > 4 else "")
        raise ConfigError(
            f"'{folder.path}' holds another run, which differs in {shown}; "
            "leave out hydra.run.dir, or give an empty folder"
        )
    if (words := differing_code(folder, known)) and not known.any_code:
        hint = ", or set code=any to use the run anyway" if trains else ""
        raise ConfigError(
            f"'{folder.path}' holds a run that was begun with {words}; "
            f"give hydra.run.dir an empty folder{hint}"
        )


def differing_code(folder: RunFolder, known: RunIdentity) -> str:
    """Which code differs between the run in a folder and this run, or an empty string."""
    held = read(folder)
    if held is None and not _is_earlier(folder):  # the run was interrupted before it recorded its identity
        return ""
    before = held.codes[-1] if held is not None else {}
    return "" if before == known.code else other_code(before, known.code)


def trained_by(ckpt: str, code: Code) -> str:
    """Which code of a network has changed since its checkpoint was trained, or an empty string.

    Args:
        ckpt: A run folder or a file; a file outside a run folder has no record of its code.
        code: The network's code now.
    """
    path = Path(ckpt).expanduser()
    folder = path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else None
    held = None if folder is None else read(RunFolder(folder))
    before = {} if held is None else {name: held.codes[-1].get(name, "") for name in code}
    return other_code(before, code) if held is not None and before != code else ""


def code_note(run: RunIdentity, folder: RunFolder) -> str | None:
    """A note for the user if a run or search with the same settings was begun with different code."""
    if folder.has_begun():
        words = differing_code(folder, run)
        return f"code: '{folder.path}' was begun with {words}, and is used anyway" if words else None
    found = with_other_code(run, folder.path.parent)
    if not found:
        return None
    before, code = found[0]
    step = max((int(row["step"]) for row in whole_rows(before.record)), default=0)
    how = "is finished" if before.is_finished() else f"is {before.state()} at step {step}"
    older = len(found) - 1
    more = f" (there {'is 1 older run' if older == 1 else f'are {older} older runs'} too)" if older else ""
    return (
        f"code: '{before.path}' has the same settings and {how}, but was begun with "
        f"{other_code(code, run.code)}{more}; this run is a new one; code=any would use that folder instead"
    )


def _differing(folder: RunFolder, known: RunIdentity) -> list[str]:
    """Phrases that say what differs between the run in a folder and another run, apart from code."""
    if (held := read(folder)) is not None:
        pairs = _pairs(_flat(held.identity), _flat(without_code(known.values)))
    else:
        pairs = _pairs(_earlier_settings(folder), known.settings)
        if folder.path.name.endswith(f"-{hash8(known.earlier)}"):  # e.g. precision: auto is 32-true on a CPU
            pairs = {k: pair for k, pair in pairs.items() if k.startswith(("callbacks.", "benchmark."))}
    phrases = (
        "the images" if key in IMAGES else f"{key} ({_shown(before)} there, {_shown(now)} here)"
        for key, (before, now) in pairs.items()
    )
    return list(dict.fromkeys(phrases))


def _pairs(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    pairs = {key: (before.get(key), now.get(key)) for key in (*before, *now)}
    return {key: pair for key, pair in pairs.items() if not _same(*pair)}


def _same(one: object, other: object) -> bool:
    """Whether two values are equal, or written alike: a setting may be NaN, which does not equal itself."""
    return one == other or _written(one) == _written(other)


def _written(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _shown(value: object) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _earlier_settings(folder: RunFolder) -> dict[str, object]:
    """The settings in a folder that an earlier version wrote."""
    try:
        values = files.read_yaml(folder.config)
    except (OSError, ValueError):
        return {}
    return comparable_settings(values) if isinstance(values, dict) else {}


def comparable_settings(values: Mapping[str, object]) -> dict[str, object]:
    """The settings to compare in folders of earlier versions, without callbacks that only watch."""
    task = values.get("task", "train")
    if task != "train":
        return _flat({"task": task} | {key: values.get(key) for key in (*MEASURING, "ckpt")})
    callbacks = values.get("callbacks")
    nodes = callbacks if isinstance(callbacks, Mapping) else {}
    kept = {name: node for name, node in nodes.items() if not _watches(node)}
    # In files of earlier versions, a budget may have shortened the epoch.
    return {"task": task, **settings({**values, "callbacks": kept, "steps_per_epoch": None})}


def _watches(node: object) -> bool:
    path = str(node.get("_target_")) if isinstance(node, Mapping) else ""
    return path.startswith("lightning.") and path.rpartition(".")[2] not in CHANGING


def other_code(before: Code, now: Code) -> str:
    """Which code differs, as part of a sentence."""
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"another version of {', '.join(names[:3])}{more}" if before else "unknown code"
