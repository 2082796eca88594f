"""The settings of a run as pairs of a flat name and a text, and which of them differ between runs."""

from collections.abc import Mapping, Sequence

from sr_lab.reporting.runs import Run

# Runs that differ in these settings are separate rows. Rows average over seeds, and each scale is a block.
_GROUPS = (
    *("task", "model", "upsampler", "strategy", "schedule", "dataset", "degradation", "loss", "optimizer"),
    *("steps", "batch_size", "learning_rate", "ema_decay", "init_ckpt", "ckpt", "budget"),
    *("validation", "benchmark", "sr_dir", "hr_dir"),
)
_WITHOUT_TRAINING = ("task", "model", "upsampler", "strategy", "ckpt", "benchmark", "sr_dir", "hr_dir")
# A group's setting that usually repeats a setting of the run.
_REPEATED = {"dataset": ("seed", "seed"), "optimizer": ("lr", "learning_rate")}
# The node that contains a group's settings.
_INNER = {"upsampler": "factory", "strategy": "apply", "schedule": "scheduler"}


def flat(run: Run) -> dict[str, str]:
    """Settings of a run: ``model: IMDN``, ``model.num_feat: 64``, ``upsampler: deconv``, ...

    They are read from config.yaml, which a failed run also has, else from the identity in metrics.json.
    """
    identity = run.values.get("identity")
    measured = {key: run.values[key] for key in ("sr_dir", "hr_dir") if key in run.values}  # task=measure
    source = {**(run.settings or (identity if isinstance(identity, Mapping) else {})), **measured}
    task = source.get("task", run.values.get("task"))
    found: dict[str, str] = {}
    trains = task in ("train", None)
    for group in _GROUPS if trains else _WITHOUT_TRAINING:
        value = source.get(group)
        if group in _REPEATED and isinstance(value, Mapping):
            inner, outer = _REPEATED[group]
            value = {key: own for key, own in value.items() if key != inner or own != source.get(outer)}
        if group == "budget":
            name = value.get("name") if isinstance(value, Mapping) else None
            found |= {"budget": str(name).removesuffix(" (auto)")} if name else {}
        elif isinstance(value, Mapping):
            _add_group(found, group, value)
        elif value is not None:
            found[group] = _text(value)
    for key in ("images", "validation_images"):
        if isinstance(digest := run.identity.get(key), str):  # other images make a separate row
            found[key] = digest[:8]
    if not trains:
        return found
    callbacks = run.identity.get("callbacks")
    if isinstance(callbacks, list) and callbacks:
        found["callbacks"] = ", ".join(_described(node) for node in callbacks if isinstance(node, Mapping))
    trainer = source.get("trainer")
    precision = trainer.get("precision") if isinstance(trainer, Mapping) else source.get("precision")
    return found | ({"precision": str(precision)} if precision is not None else {})


def _described(node: Mapping[str, object]) -> str:
    """A description as text, e.g. ``Freeze(step=3)``."""
    given = ", ".join(f"{key}={_text(value)}" for key, value in node.items() if key != "_target_")
    return str(node.get("_target_")).rpartition(".")[2] + (f"({given})" if given else "")


def changed(run: Run) -> list[str]:
    """Changes to the recipe of a row that keep its results from matching the paper's.

    These are overrides on a sweep's command line, without the budget, which a table shows anyway, and without
    folders. Training from scratch where the paper starts from its x2 network counts too.
    """
    shown = ("task", "budget", "validation", "benchmark")
    recipe = {*_GROUPS, "steps_per_epoch", "debug"}.difference(shown)
    keys = {override: override.partition("=")[0].lstrip("+~") for override in run.overrides}
    found = [
        override
        for override, key in keys.items()
        if key.partition(".")[0] in recipe and not key.endswith("_dir")
    ]
    if not run.is_fine_tuned_in_paper:
        return found
    if run.settings.get("init_ckpt") is None:
        return [*found, f"{run.labels[0]} x{run.scale} from scratch (fine-tuned from x2 in the paper)"]
    return [override for override in found if keys[override] != "init_ckpt"]


def varied(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of the settings that differ; ``model.x`` is compared only between runs of the same model."""
    names = dict.fromkeys(name for own in settings for name in own)
    found = []
    for name in names:
        group = name.partition(".")[0]
        values: dict[str | None, set[str | None]] = {}
        for own in settings:
            values.setdefault(own.get(group) if "." in name else None, set()).add(own.get(name))
        if any(len(same) > 1 for same in values.values()):
            found.append(name)
    return found


def _add_group(found: dict[str, str], group: str, node: Mapping[str, object]) -> None:
    inner = node.get(_INNER.get(group, ""))
    if "name" in node and group in _INNER:
        found[group] = str(node["name"])
    body = inner if isinstance(inner, Mapping) else {} if group in ("upsampler", "strategy") else node
    outer = {} if body is node else {key: node[key] for key in node if key not in (_INNER[group], "name")}
    for key, value in {**outer, **body}.items():
        # The tail is shown by the group upsampler, the scale by the block; folders do not change results.
        is_shown = group == "model" and key in ("scale", "upsampler")
        is_default = (group, key, value) == ("benchmark", "lr", "made")  # older runs lack it
        if not key.endswith("_dir") and not is_shown and not is_default:
            _add(found, group, key, value)


def _add(found: dict[str, str], place: str, key: str, value: object) -> None:
    if key == "_target_":
        found.setdefault(place, str(value).rpartition(".")[2])
    elif isinstance(value, Mapping):
        for inner, child in value.items():
            _add(found, f"{place}.{key}", inner, child)
    else:
        found[f"{place}.{key}"] = _text(value)


def _text(value: object) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
