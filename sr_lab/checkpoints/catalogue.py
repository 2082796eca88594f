"""The networks of ``conf/model`` by name, and which of them a checkpoint fits."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sr_lab.checkpoints.reading import Checkpoint
from sr_lab.checkpoints.scale_in_name import named_scale
from sr_lab.checkpoints.weights import Forms, Likeness, forms_of, likeness, load_weights
from sr_lab.config import targets
from sr_lab.config.networks import model_node, model_options
from sr_lab.errors import CheckpointError

SCALES = (2, 3, 4)
_ALIKE = 0.5  # a checkpoint resembles a network if they have at least this share of their names in common


@dataclass(frozen=True)
class Entry:
    """A network at one scale."""

    option: str  # value of model=
    scale: int

    def __str__(self) -> str:
        return f"model={self.option} scale={self.scale}"

    def build(self, **settings: object) -> nn.Module:
        """The network with fresh weights; ``settings`` replace the option's own settings.

        Raises:
            ConfigError: There is no such option, or the network refuses the scale or a setting.
        """
        network: nn.Module = targets.build("model", {**model_node(self.option, self.scale), **settings})
        return network


@functools.cache
def _on_meta(entry: Entry) -> tuple[nn.Module, Forms] | str:
    """A network whose weights have names and shapes but no values, or why it cannot be built."""
    try:
        with torch.device("meta"):
            network = entry.build()
        return network, forms_of(network)
    except Exception as error:  # a user's own option may fail in any way; other networks are still tried
        return (str(error).splitlines() or [type(error).__name__])[0]


def _compared(checkpoint: Checkpoint) -> Iterator[tuple[Entry, Likeness]]:
    """Compare a checkpoint with each network that can be built, at each scale that the network supports."""
    for option in model_options():
        for entry in (Entry(option, scale) for scale in SCALES):
            built = _on_meta(entry)
            if isinstance(built, str):
                continue
            like = likeness(*built, checkpoint)
            yield entry, like
            if like.names < _ALIKE and not like.fits:  # then no other scale fits either
                break


def fitting(checkpoint: Checkpoint) -> list[Entry]:
    """The networks whose weights have a checkpoint's names, either ours or the authors', and its shapes."""
    return [entry for entry, like in _compared(checkpoint) if like.fits]


def skipped() -> dict[str, str]:
    """The options of ``conf/model`` that are left out of the comparison, and why each cannot be built."""
    first = {option: _on_meta(Entry(option, SCALES[0])) for option in model_options()}
    return {
        option: why
        for option, why in first.items()
        if isinstance(why, str) and all(isinstance(_on_meta(Entry(option, s)), str) for s in SCALES)
    }


def recognised(
    checkpoint: Checkpoint, scale: int | None, *, key: str, note: Callable[[str], object]
) -> Entry:
    """The one network whose weights a checkpoint contains.

    Args:
        checkpoint: A file that does not describe its network.
        scale: The scale that the user asked for, ``None`` for the file's own scale.
        key: The setting that names the file, for error messages.
        note: Called with a sentence if the scale was taken from the file's name, or contradicts the name.

    Raises:
        CheckpointError: The checkpoint fits no network (the message lists what is missing), or several.
    """
    compared = list(_compared(checkpoint))
    any_scale = [entry for entry, like in compared if like.fits]
    named = named_scale(checkpoint.path)
    entries = [entry for entry in any_scale if scale in (None, entry.scale)]
    if len(entries) > 1 and len({entry.option for entry in entries}) == 1 and named is not None:
        entries = [entry for entry in entries if entry.scale == named.scale] or entries
    names = " or ".join(map(str, any_scale))
    if len(entries) > 1:
        raise CheckpointError(f"{key}: '{checkpoint.path}' fits more than one network; choose {names}")
    if entries:
        say_scale(checkpoint, entries[0].scale, [entry.scale for entry in any_scale], scale, note)
        return entries[0]
    if any_scale:
        raise CheckpointError(f"{key}: '{checkpoint.path}' does not fit scale={scale}; choose {names}")
    raise _misfit(checkpoint, compared, key)


def say_scale(
    checkpoint: Checkpoint,
    scale: int,
    fitting: Sequence[int],
    asked: int | None,
    note: Callable[[str], object],
) -> None:
    """Say where the scale comes from if the weights do not determine it, or if the file's name disagrees.

    Args:
        checkpoint: The file.
        scale: The scale that is used.
        fitting: The scales that the file's weights fit.
        asked: The scale that the user asked for, if any.
        note: Called with the sentence.
    """
    named = named_scale(checkpoint.path)
    others = " and ".join(f"x{other}" for other in fitting if other != scale)
    if named is not None and named.scale not in (None, scale):
        why = "the command line" if asked is not None else "the weights"
        note(f"scale={scale} is from {why}; the name '{named.part}' says x{named.scale}")
    elif asked is None and others:
        source = "the default, since the name gives no scale"
        if named is not None and named.scale is None:
            stated = " and ".join(f"x{each}" for each in named.scales)
            source = f"the default, since the name '{named.part}' says {stated}"
        elif named is not None:
            source = f"from the name '{named.part}'"
        note(f"scale={scale} is {source}; the weights fit {others} as well")


def _misfit(checkpoint: Checkpoint, compared: Sequence[tuple[Entry, Likeness]], key: str) -> CheckpointError:
    """Explain why a checkpoint fits no network, using the network that it resembles most."""
    named = named_scale(checkpoint.path)
    entry, like = max(
        compared,
        key=lambda pair: (
            pair[1].names + pair[1].shapes,
            named is not None and pair[0].scale == named.scale,
        ),
    )
    unknown = "".join(f"; model={option} was skipped: {why}" for option, why in skipped().items())
    if like.names < _ALIKE:
        first = ", ".join(list(checkpoint.state)[:3])
        return CheckpointError(
            f"{key}: '{checkpoint.path}' fits no network of conf/model and resembles none of ours: "
            f"no network has more than {like.num_shared} of its {len(checkpoint.state)} names "
            f"({first}, ...); build the network and load the weights yourself{unknown}"
        )
    try:
        load_weights(entry.build(), checkpoint, key=key)
    except CheckpointError as error:
        return CheckpointError(f"{error} (the nearest is {entry}; no network fits{unknown})")
    raise AssertionError("a checkpoint was loaded into a network that it does not fit")
