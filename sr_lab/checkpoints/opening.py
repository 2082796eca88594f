"""Opens a network with its weights, given a path or a name, for the command line and for Python."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sr_lab.checkpoints import catalogue
from sr_lab.checkpoints.reading import Checkpoint, open_checkpoint
from sr_lab.checkpoints.scale_in_name import named_scale
from sr_lab.checkpoints.weights import forms_of, likeness, load_weights
from sr_lab.config import targets
from sr_lab.config.networks import model_node, model_options
from sr_lab.config.overrides import by_group
from sr_lab.config.schema import Config, NetworkConfig, StoredNetwork, Strategy, Upsampler
from sr_lab.config.untrusted import stored_network
from sr_lab.errors import CheckpointError, ConfigError

Checkpointed = TypeVar("Checkpointed", bound=NetworkConfig)
_Configured = TypeVar("_Configured", bound=Config)
Note: TypeAlias = Callable[[str], object]


def build_network(described: Config | StoredNetwork, allow: Sequence[str] = ()) -> nn.Module:
    """The network that a configuration or a checkpoint describes, with its strategy and fresh weights.

    Args:
        described: The configuration or the checkpoint's record.
        allow: Packages that the user trusts in addition to ours.
    """
    network: nn.Module = targets.build("model", described.model, allow)
    if described.strategy.apply is not None:
        network = targets.build("strategy", described.strategy.apply, allow)(network)
    return network


@contextlib.contextmanager
def refuse_larger_than(checkpoint: Checkpoint, key: str = "ckpt") -> Iterator[None]:
    """Refuse to build a network much larger than the weights that a checkpoint has for it.

    A one-kilobyte record can describe a network of a billion blocks. Training may use several weights where
    the folded form has one, hence the factor.

    Raises:
        CheckpointError: The network is that much larger.
    """
    most = 100 + 20 * len(checkpoint.state)
    numbers = 10**6 + 20 * sum(value.numel() for value in checkpoint.state.values())
    here = threading.get_ident()

    def count(module: nn.Module, name: str, weight: nn.Parameter) -> None:
        nonlocal most, numbers
        if threading.get_ident() != here:
            return
        most, numbers = most - 1, numbers - weight.numel()
        if min(most, numbers) < 0:
            raise CheckpointError(
                f"{key}: '{checkpoint.path}' describes a far larger network than it has weights for; "
                "use another file"
            )

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def describe(
    checkpoint: Checkpoint,
    scale: int | None = None,
    *,
    key: str = "ckpt",
    allow: Sequence[str] = (),
    note: Note,
) -> StoredNetwork:
    """Find the network that a checkpoint contains, from its own record or its weights' names and shapes.

    Args:
        checkpoint: The opened file.
        scale: The scale that the user asked for, ``None`` for the file's own scale.
        key: The setting that names the file, for error messages.
        allow: Packages that the command line trusts in addition to ours.
        note: Called with a sentence about what the weights do not determine, such as the scale.

    Raises:
        CheckpointError: The checkpoint fits no network, or several.
        ConfigError: The checkpoint names a network that is not allowed, or has a different scale.
    """
    if checkpoint.record is not None:
        stored = stored_network(checkpoint.record, str(checkpoint.path), allow)
        if scale not in (None, stored.scale):
            raise ConfigError(f"{key}: '{checkpoint.path}' has scale={stored.scale}, got scale={scale}")
        return stored
    entry = catalogue.recognised(checkpoint, scale, key=key, note=note)
    return StoredNetwork(
        model=model_node(entry.option, entry.scale),
        upsampler=Upsampler(name="native", factory=None),
        strategy=Strategy(name="none", apply=None),
        scale=entry.scale,
    )


def open_network(path_or_name: str, scale: int | None, note: Note, allow: Sequence[str] = ()) -> nn.Module:
    """What `sr_lab.load` returns: a checkpoint's network with its weights, or a named one with fresh weights.

    Args:
        path_or_name: See `sr_lab.load`.
        scale: See `sr_lab.load`.
        note: Called with a sentence about what the weights do not determine, such as the scale.
        allow: See `sr_lab.load`.

    Raises:
        CheckpointError: See `describe`.
        ConfigError: See `describe`; or a name was given without a scale.
    """
    name = path_or_name
    if name in model_options() or ("/" not in name and "." not in name and not Path(name).exists()):
        if scale is None:
            raise ConfigError(f"load: a network needs its scale, got '{name}'; pass scale=2, 3 or 4")
        return catalogue.Entry(name, scale).build().eval()
    return open_stored(name, scale, note, allow, key="load")[1]


def open_stored(
    path: str, scale: int | None, note: Note, allow: Sequence[str] = (), *, key: str
) -> tuple[StoredNetwork, nn.Module]:
    """A checkpoint's network with its weights, in evaluation mode, and its description.

    Args:
        path: A run folder, a checkpoint file, or the name of published weights.
        scale: See `describe`.
        note: See `describe`.
        allow: See `describe`.
        key: The setting that names the file, for error messages.

    Raises:
        CheckpointError: See `describe`; or the checkpoint cannot be opened.
        ConfigError: See `describe`.
    """
    checkpoint = open_checkpoint(path, key, note)
    stored = describe(checkpoint, scale, key=key, allow=allow, note=note)
    with refuse_larger_than(checkpoint, key):
        network = build_network(stored, allow)
    load_weights(network, checkpoint, key=key)
    return stored, network.eval()


def open_configured(
    config: Checkpointed, overrides: Sequence[str], note: Note
) -> tuple[Checkpointed, nn.Module]:
    """The network of ``ckpt`` with its weights, and the configuration that describes it.

    Args:
        config: The composed configuration; a checkpoint's own record replaces its network.
        overrides: Overrides of the command line, which must not contradict the checkpoint.
        note: Called with a sentence about what the weights do not determine, such as the scale.

    Raises:
        CheckpointError: The checkpoint cannot be opened, does not fit, or fits several networks.
        ConfigError: The network has weights but no checkpoint is given, or the checkpoint contradicts an
            override.
    """
    if config.ckpt is None:
        network = build_network(config, config.allow)
        if any(True for _ in network.parameters()):
            raise ConfigError(
                f"ckpt: {type(network).__name__} has weights, but no checkpoint is given; "
                "set ckpt=<run folder or checkpoint file>"
            )
        return config, network
    config, checkpoint = described(config, overrides, config.ckpt, note)
    with refuse_larger_than(checkpoint) if checkpoint.record is not None else contextlib.nullcontext():
        network = build_network(config, config.allow)
    _load_named(network, checkpoint)
    return config, network


def described(
    config: Checkpointed, overrides: Sequence[str], ckpt: str, note: Note
) -> tuple[Checkpointed, Checkpoint]:
    """The configuration with the network of a checkpoint, and the checkpoint; see `open_configured`."""
    checkpoint = open_checkpoint(ckpt, note=note)
    named = by_group(overrides)
    if checkpoint.record is not None:
        _refuse_other_network(checkpoint, named)
    if checkpoint.record is not None or not named.keys() & {"model", "upsampler"}:
        scale = config.scale if "scale" in named else None
        stored = describe(checkpoint, scale, allow=config.allow, note=note)
        if checkpoint.record is None:  # a strategy is not part of an official checkpoint
            stored = stored.model_copy(update={"strategy": config.strategy})
        fields = {name: getattr(stored, name) for name in StoredNetwork.model_fields}
        config = config.model_copy(update=fields)
    elif "scale" in config.model:
        config = _at_scale_of_file(config, checkpoint, is_given="scale" in named, note=note)
    return config, checkpoint


def _at_scale_of_file(
    config: Checkpointed, checkpoint: Checkpoint, *, is_given: bool, note: Note
) -> Checkpointed:
    """The configuration of a named network at the scale of its file, if the command line gives no scale."""
    fitting = fitting_scales(config, checkpoint)
    found = named_scale(checkpoint.path)
    if not is_given and found is not None and found.scale in fitting:
        config = _at(config, found.scale)
    elif not is_given and len(fitting) == 1:
        config = _at(config, fitting[0])
    if config.scale in fitting:
        catalogue.say_scale(checkpoint, config.scale, fitting, config.scale if is_given else None, note)
    return config


def fitting_scales(config: Config, checkpoint: Checkpoint) -> list[int]:
    """The scales at which the weights of a checkpoint fit the configured network."""
    return [scale for scale in catalogue.SCALES if _fits(config, scale, checkpoint)]


def _at(config: _Configured, scale: int) -> _Configured:
    return config.model_copy(update={"scale": scale, "model": {**config.model, "scale": scale}})


def _fits(config: Config, scale: int, checkpoint: Checkpoint) -> bool:
    """Whether the weights fit the configured network at a scale."""
    try:
        with torch.device("meta"):
            network = build_network(_at(config, scale), config.allow)
    except ConfigError:
        return False
    return likeness(network, forms_of(network), checkpoint).fits


def _refuse_other_network(checkpoint: Checkpoint, named: dict[str, str]) -> None:
    """Refuse overrides that set the network, or a part of it, since the checkpoint records its network."""
    assert checkpoint.record is not None
    model, scale = checkpoint.record.get("model"), checkpoint.record.get("scale")
    for group, override in named.items():
        if group in StoredNetwork.model_fields and override.lstrip("+") != f"scale={scale}":
            name = str(model.get("_target_")).rpartition(".")[2] if isinstance(model, dict) else "?"
            raise ConfigError(
                f"{override}: '{checkpoint.path}' already records its network ({name} x{scale}); "
                "drop the override"
            )


def _load_named(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into the network that the user named.

    Raises:
        CheckpointError: The checkpoint does not fit; the message lists the networks that it does fit.
    """
    try:
        load_weights(network, checkpoint)
    except CheckpointError as error:
        names = " or ".join(map(str, catalogue.fitting(checkpoint)))
        raise CheckpointError(f"{error} ({names or 'no network of conf/model has these weights'})") from error
