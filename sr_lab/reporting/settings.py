"""The settings of a run as strings with dotted names, and which of them differ between runs."""

import re
from collections.abc import Mapping, Sequence

from sr_lab.reporting.runs import Run

# The settings to read from config.yaml; all others come from the run's identity.
GROUPS = (
    *("task", "model", "upsampler", "strategy", "schedule", "dataset", "degradation", "loss", "optimizer"),
    *("steps", "batch_size", "learning_rate", "ema_decay", "init_ckpt", "ckpt", "budget"),
    *("validation", "benchmark", "sr_dir", "hr_dir"),
)
_WITHOUT_TRAINING = ("task", "model", "upsampler", "strategy", "ckpt", "benchmark", "sr_dir", "hr_dir")
# A group's setting that usually repeats a setting of the run.
_REPEATED = {"dataset": ("seed", "seed"), "optimizer": ("lr", "learning_rate")}
# The node that contains a group's settings.
_INNER = {"upsampler": "factory", "strategy": "apply", "schedule": "scheduler"}
# Settings that usually follow from other settings.
_DERIVED = ("steps_per_epoch",)
_IMAGES = "images of "


def flat(run: Run) -> dict[str, str]:
    """Settings of a run: ``model: IMDN``, ``model.num_feat: 64``, ``upsampler: deconv``, ...

    The settings come from config.yaml, which even a run that never began has, and from the identity. The
    seed, the scale and digests of files are left out.
    """
    measured: dict[str, object] = {
        key: run.values[key]
        for key in ("sr_dir", "hr_dir")
        if key in run.values  # task=measure
    }
    source = {**run.identity, **run.settings, **measured}
    task = source.get("task", run.values.get("task"))
    trains = task in ("train", None)
    found: dict[str, str] = {}
    for group in GROUPS if trains else _WITHOUT_TRAINING:
        value = source.get(group)
        if group in _REPEATED and isinstance(value, Mapping):
            inner, outer = _REPEATED[group]
            value = {key: own for key, own in value.items() if key != inner or own != source.get(outer)}
        if group == "budget":
            name = value.get("name") if isinstance(value, Mapping) else None
            found |= {"budget": str(name).removesuffix(" (auto)")} if name else {}
        elif isinstance(value, Mapping):
            _add_group(found, group, value)
        elif value is not None and not _is_digest(value):
            found[group] = _text(value)
    for key, value in run.identity.items():
        if key not in (*GROUPS, *_DERIVED, "seed", "scale", "code"):
            _add(found, "", key, value)
    if trains and not run.identity:
        trainer = source.get("trainer")
        precision = trainer.get("precision") if isinstance(trainer, Mapping) else None
        found |= {"precision": str(precision)} if precision is not None else {}
    return found


def _details(run: Run) -> dict[str, str]:
    """What identifies a run beyond `flat`: digests of files, full names of classes, limits of the budget."""
    digests_of = {name: own.digest for name, own in run.measured_on.items()} | run.trained_on._asdict()
    found = {f"{_IMAGES}{name}": digest[:8] for name, digest in digests_of.items() if digest}

    def add(key: str, value: object) -> None:
        if isinstance(value, Mapping) and value:
            for inner, child in value.items():
                add(f"{key}.{inner}", child)
        elif digests := [each for each in _listed(value) if _is_digest(each)]:
            found[f"{key} (sha256)"] = " ".join(str(digest)[:8] for digest in digests)
        else:
            found[key] = _text(value)

    for key, value in unseeded(run.identity).items():
        add(key, value)
    return found


def unseeded(identity: Mapping[str, object]) -> dict[str, object]:
    """An identity without the code, and without the seed, in which runs of one row may differ."""
    seed, dataset = identity.get("seed"), identity.get("dataset")
    found = {key: value for key, value in identity.items() if key not in ("seed", "code")}
    if isinstance(dataset, Mapping) and dataset.get("seed") == seed:
        found["dataset"] = {key: value for key, value in dataset.items() if key != "seed"}
    return found


def differences(runs: Sequence[Run]) -> list[dict[str, str]]:
    """For each run, its values of the settings in which the runs differ; ``-`` where a setting is not set.

    ``model.x`` is compared only between runs of the same model. Digests and the like are compared only
    between runs that differ in nothing else.
    """
    settings, details = [flat(run) for run in runs], [_details(run) for run in runs]
    # In a run without an identity, a value that only an identity has is unknown, not unset.
    identified = [own for run, own in zip(runs, settings, strict=True) if run.identity]
    known = [own for own in settings if own]  # a launcher's job may fail before it writes its settings
    shown: list[dict[str, str]] = [{} for _ in runs]
    for name in dict.fromkeys(name for own in settings for name in own):
        if _varies(name, known if _group(name) in GROUPS or not identified else identified):
            for found, own in zip(shown, settings, strict=True):
                found[name] = own.get(name, "-")
    for name in dict.fromkeys(name for own in details for name in own):
        texts: dict[tuple[object, ...], set[str]] = {}
        for run, found, own in zip(runs, shown, details, strict=True):
            if name in own or (run.identity and not name.startswith(_IMAGES)):
                texts.setdefault((run.scale, *found.values()), set()).add(own.get(name, "-"))
        if any(len(different) > 1 for different in texts.values()):
            for found, own in zip(shown, details, strict=True):
                found[name] = own.get(name, "-")
    return shown


def _varies(name: str, settings: Sequence[Mapping[str, str]]) -> bool:
    values: dict[str | None, set[str | None]] = {}
    for own in settings:
        values.setdefault(own.get(_group(name)) if "." in name else None, set()).add(own.get(name))
    return any(len(same) > 1 for same in values.values())


def _group(name: str) -> str:
    return name.partition(".")[0]


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else [value]


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _described(node: Mapping[str, object]) -> str:
    """A node with a ``_target_`` as a string, e.g. ``Freeze(step=3)``."""
    given = ", ".join(f"{key}={_text(value)}" for key, value in node.items() if key != "_target_")
    return str(node.get("_target_")).rpartition(".")[2] + (f"({given})" if given else "")


def changed(run: Run) -> list[str]:
    """Changes to a row's recipe with which its results need not match the paper's.

    These are overrides on a sweep's command line, except those of folders and of the budget, which a table
    shows anyway. Choosing the best checkpoint on benchmark sets counts as a change; so does a different start
    where the paper starts from its x2 network.
    """
    shown = ("task", "budget", "validation", "benchmark")
    recipe = {*GROUPS, "steps_per_epoch", "debug"}.difference(shown)
    keys = {override: override.partition("=")[0].lstrip("+~") for override in run.overrides}
    found = [
        override
        for override, key in keys.items()
        if (_group(key) in recipe or _is_training_setting(run, key)) and not key.endswith("_dir")
    ]
    validation = run.settings.get("validation")
    if isinstance(validation, Mapping) and (sets := validation.get("sets")):
        found.append(f"validation.sets=[{','.join(map(str, _listed(sets)))}]")
    if not run.is_fine_tuned_in_paper:
        return found
    found = [override for override in found if keys.get(override) != "init_ckpt"]
    start = _other_start(run)
    return (
        [*found, f"{run.labels[0]} x{run.scale} {start} (fine-tuned from x2 in the paper)"]
        if start
        else found
    )


def _other_start(run: Run) -> str:
    """What a run started from, e.g. ``from x3``; empty for its own network at x2 or if not known yet."""
    if run.settings.get("init_ckpt") is None:
        return "from scratch"
    started = run.values.get("started_from")
    if not isinstance(started, Mapping):
        return "" if run.problem else "from an unknown network"
    own, model = run.settings.get("model"), started.get("model")
    if not isinstance(own, Mapping) or not isinstance(model, Mapping):
        return "from an unknown network"
    if any(own.get(key) != model.get(key) for key in {*own, *model} - {"scale"}) or (
        started.get("strategy") != run.settings.get("strategy", started.get("strategy"))
    ):
        name, mine = (str(node.get("_target_")).rpartition(".")[2] for node in (model, own))
        return f"from {'another ' if name == mine else ''}{name} x{started.get('scale')}"
    scale = started.get("scale")
    return "" if scale == 2 else f"from {f'x{scale}' if scale else 'an unknown scale'}"


def _is_training_setting(run: Run, key: str) -> bool:
    """Whether a setting of the Trainer or a callback is part of a run's identity."""
    group, _, name = key.partition(".")
    trainer = run.identity.get("trainer")
    of_trainer = group == "trainer" and isinstance(trainer, Mapping) and name in trainer
    return of_trainer or (group == "callbacks" and "callbacks" in run.identity)


def _add_group(found: dict[str, str], group: str, node: Mapping[str, object]) -> None:
    inner = node.get(_INNER.get(group, ""))
    if "name" in node and group in _INNER:
        found[group] = str(node["name"])
    body = inner if isinstance(inner, Mapping) else {} if group in ("upsampler", "strategy") else node
    outer = {} if body is node else {key: node[key] for key in node if key not in (_INNER[group], "name")}
    for key, value in {**outer, **body}.items():
        # The tail is shown by the group upsampler, the scale by the block; folders do not change results.
        is_shown = group == "model" and key in ("scale", "upsampler")
        is_default = (group, key, value) == ("benchmark", "lr", "made")  # older runs lack this setting
        if not key.endswith(("_dir", "_gb")) and not is_shown and not is_default:
            _add(found, group, key, value)


def _add(found: dict[str, str], place: str, key: str, value: object) -> None:
    name = f"{place}.{key}" if place else key
    if key == "_target_":
        found.setdefault(place, str(value).rpartition(".")[2])
    elif isinstance(value, Mapping):
        for inner, child in value.items():
            _add(found, name, inner, child)
    elif isinstance(value, list) and any(isinstance(node, Mapping) for node in value):
        found[name] = ", ".join(_described(node) for node in value if isinstance(node, Mapping))
    elif not any(map(_is_digest, _listed(value))):
        found[name] = _text(value)


def _text(value: object) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
