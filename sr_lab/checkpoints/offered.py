"""The networks that a page offers: those that the user named, those in the package, and downloaded ones."""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.checkpoints.fetching import is_right
from sr_lab.checkpoints.opening import Note, open_network, open_stored
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.run_folder import checkpoint_file
from sr_lab.zoo.published import PREFIX, Published, named, published
from sr_lab.zoo.shipped import shipped


@dataclass(frozen=True)
class Offered:
    """A network that can be chosen.

    Args:
        name: Name of the network on the page; a network of another scale may have the same name.
        scale: Upscaling factor.
        open: Opens the network on the CPU.
    """

    name: str
    scale: int
    open: Callable[[], nn.Module]


def offered(
    ckpts: Sequence[str],
    scale_of: Callable[[nn.Module], int],
    *,
    note: Note,
    allow: Sequence[str] = (),
) -> list[Offered]:
    """The networks that can be chosen without a download, those that the user named first.

    Args:
        ckpts: The checkpoints that the user named, as for `open_stored`. They are opened now, so that a
            mistake shows at once.
        scale_of: Returns the scale of an opened network.
        note: Called with a sentence about what the weights do not determine, such as the scale.
        allow: Packages that the command line trusts in addition to ours.

    Raises:
        CheckpointError: A checkpoint cannot be opened, or fits no network or several.
        ConfigError: A checkpoint names a network that is not allowed.
    """
    found: dict[tuple[str, int], Offered] = {}

    def offer(name: str, scale: int, path: str, opened: Callable[[], nn.Module]) -> None:
        name = path if (name, scale) in found else name
        found.setdefault((name, scale), Offered(name, scale, opened))

    for path in ckpts:
        _, network = open_stored(path, None, note, allow, key="ckpt")
        scale = scale_of(network)
        offer(_name_of(path, scale), scale, path, functools.partial(_itself, network))
    given = {checkpoint_file(path).resolve() for path in ckpts}
    for scale, file in shipped().items():
        if file.resolve() in given:
            continue
        opened = functools.partial(open_network, str(file), scale, note)
        offer(file.stem.rpartition("_x")[0], scale, str(file), opened)
    for entry in published().values():
        if entry.file().resolve() not in given and is_right(entry.file(), entry):
            opened = functools.partial(_open_published, entry, note)
            offer(entry.model, entry.scale, PREFIX + entry.name, opened)
    return list(found.values())


def _itself(network: nn.Module) -> nn.Module:
    return network


def _open_published(entry: Published, note: Note) -> nn.Module:
    """The network in a downloaded file: the network is known, so none has to be recognised."""
    network = Entry(entry.model, entry.scale).build()
    load_weights(network, open_checkpoint(str(entry.file()), note=note))
    return network.eval()


def _name_of(path: str, scale: int) -> str:
    """Network of published weights, name of a run folder, or name of a file without its scale."""
    if (weights := named(path)) is not None:
        return weights.model
    file = checkpoint_file(path)
    if file.parent.name == "checkpoints":
        return file.parent.parent.name
    return re.sub(rf"(?<=.)[_-]?x{scale}$", "", file.stem, flags=re.IGNORECASE)
