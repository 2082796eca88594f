"""The name of a run, from what was chosen and typed."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sr_lab.config.overrides import is_set

# Overrides that change no result, or that already appear elsewhere in the folder's path.
_NEVER_NAMED = {
    *("task", "experiment", "experiment_name", "run_name", "paths", "logger", "callbacks", "debug"),
    *("row", "rows", "table", "sweep", "hparams_search", "folder", "mirror", "decode"),
    *("num_workers", "validation", "benchmark", "allow", "resume", "code", "ckpt", "runs", "explain"),
    *("measure", "format", "columns", "dtype", "size"),
    *("hydra", "input", "output", "overwrite", "quality", "max_pixels", "dry_run", "examples"),
    *("ckpts", "own_runs", "only", "names", "hr", "crop", "crop_size"),
}


def run_name(node: DictConfig, overrides: Sequence[str], choices: Mapping[str, str]) -> str:
    """``<model>_x<scale>`` and anything else that the command line changed, e.g. ``imdn_x4_deconv_seed-1``.

    The measurement of a checkpoint is named after the checkpoint's run folder or file, the measurement of
    images after their folder, upscaled images after the network and their source, and a comparison after its
    image.
    """
    if node.get("ckpts") is not None:
        shown = Path(str(OmegaConf.select(node, "input") or OmegaConf.select(node, "hr"))).stem
        return _joined([re.sub(r"[^\w.-]+", "-", shown).strip("-.") or "image"], 100)
    name, given = _name(node, overrides, choices), OmegaConf.select(node, "input")
    if not isinstance(given, str):
        return name
    source = re.sub(r"[^\w.-]+", "-", Path(given).stem)[:49]
    return f"{name[:50]}_{source}".rstrip("-_.")


def _name(node: DictConfig, overrides: Sequence[str], choices: Mapping[str, str]) -> str:
    if node.get("sr_dir") is not None:
        return re.sub(r"[^\w.-]+", "-", Path(str(node.sr_dir)).absolute().name).strip("-.")[:100] or "images"
    if node.get("ckpt") is not None:
        return _checkpoint_name(Path(str(node.ckpt)))
    if node.get("task") == "upscale" and not is_set("model", overrides):  # the weights in the package
        return f"pretrained_x{node.get('scale')}" if is_set("scale", overrides) else "pretrained"
    model = choices.get("model") or str(OmegaConf.select(node, "model._target_")).rpartition(".")[2]
    parts = [model, f"x{node.get('scale')}"]
    if node.get("row_label") is not None:
        parts.append(re.sub(r"[^\w.-]+", "-", node.row_label).strip("-") or "row")
    for override in overrides:
        key, _, value = override.lstrip("+~").replace("'", "").partition("=")
        top = key.split(".")[0].split("@")[0]
        if (
            key in ("model", "scale")
            or top in _NEVER_NAMED
            or (top == "trainer" and key != "trainer.precision")
        ):
            continue
        if key.endswith(("_dir", "_ckpt")):
            value = Path(value).name
        parts.append(value if key in choices else f"{key.rpartition('.')[2]}-{value}")
    return _joined(parts, 100)


def _joined(parts: Sequence[str], limit: int) -> str:
    """The parts of a name of at most ``limit`` characters; the longest parts are cut in their middle.

    No part is dropped, since any of them may distinguish this run from the others.
    """
    # Replace every character that would need quotes in ckpt=<run folder>.
    whole = [re.sub(r"[^\w.-]+", "-", part) for part in parts]
    plain, longest = whole, max(map(len, whole))
    while len("_".join(plain)) > limit and longest > 4:
        longest -= 1
        plain = [part if len(part) <= longest else _cut(part, longest) for part in whole]
    return "_".join(plain).strip("-")[:limit]


def _cut(text: str, length: int) -> str:
    """A part without its middle; more is kept of the end, where the value of a setting is."""
    start = length // 4
    return f"{text[:start]}-{text[len(text) - (length - start - 1) :]}"


def _checkpoint_name(path: Path) -> str:
    run = path.parents[1] if path.parent.name == "checkpoints" else path
    is_file = run.suffix in (".ckpt", ".pth", ".pt", ".mat", ".safetensors")
    name = re.sub(r"-[0-9a-f]{8}$", "", run.stem if is_file else run.name)
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:100] or "checkpoint"
