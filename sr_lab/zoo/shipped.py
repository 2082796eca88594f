"""Our own weights, which the package contains: the default of ``task=upscale`` and ``sr_lab.load``."""

import re
from collections.abc import Callable
from pathlib import Path

from sr_lab.errors import CheckpointError
from sr_lab.zoo.published import PREFIX, published

FOLDER = Path(__file__).parent / "pretrained"
OWN = "pretrained/"  # ckpt=pretrained/quick_x2
_NAME = re.compile(r"\w+_x(\d+)\.safetensors", re.ASCII)
_MAX_PARAMS = 400_000


def shipped() -> dict[int, Path]:
    """The weights in the package by their scale: ``pretrained/<name>_x<scale>.safetensors``."""
    named = ((_NAME.fullmatch(path.name), path) for path in sorted(FOLDER.glob("*.safetensors")))
    return {int(match[1]): path for match, path in named if match}


def file_of(path: str, key: str = "ckpt") -> Path | None:
    """The weights in the package that a setting names, or ``None`` if it names a file or folder.

    Args:
        path: The setting's value, e.g. ``pretrained/quick_x2``. An existing file or folder is never
            taken for a name.
        key: The setting, for error messages.

    Raises:
        CheckpointError: The value begins with ``pretrained/``, but there are no such weights.
    """
    if not path.startswith(OWN) or Path(path).exists():
        return None
    known = {OWN + file.stem: file for file in shipped().values()}
    if path not in known:
        raise CheckpointError(f"{key}: there is no '{path}'; allowed: {', '.join(known) or 'none'}")
    return known[path]


def default(scale: int | None, *, key: str, command: Callable[[str], str]) -> Path:
    """The weights that are used if none are named.

    Args:
        scale: The scale that the user asked for; ``None`` for the smallest.
        key: The setting that names weights, for the message.
        command: Returns what the user may write instead, given the name of some weights.

    Raises:
        CheckpointError: The package has no such weights; the message names published ones.
    """
    found = shipped()
    if found and scale is None:
        return found[min(found)]
    if scale in found:
        return found[scale]
    names = suggested()
    first = next((name for name in names if name.endswith(f"_x{scale}")), names[-1])
    ours = f"the package has weights only for x{', x'.join(map(str, found))}" if found else "none is given"
    raise CheckpointError(
        f"{key}: a checkpoint is needed, but {ours}; small published weights with a licence are "
        f"{', '.join(names)} (downloaded on first use): {command(first)}"
    )


def suggested() -> list[str]:
    """For each scale, the best small network of the zoo whose licence is stated: ``zoo/bsrn_x2``."""
    free = [each for each in published().values() if each.has_licence and each.num_params < _MAX_PARAMS]
    best = {each.scale: each for each in sorted(free, key=lambda each: each.psnr_y)}
    return [PREFIX + best[scale].name for scale in sorted(best)]
