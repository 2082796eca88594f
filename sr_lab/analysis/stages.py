"""What goes into and comes out of the parts of a network while it upscales an image."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sr_lab.errors import ConfigError


@dataclass(frozen=True)
class Stage:
    """One run of one module.

    Args:
        module: ``head``, ``1`` to ``n`` for the blocks of the body, or the name that the module was given.
        run: Number of this run of the module, from 1.
        input: Its first input, ``(N, C, H, W)``.
        output: Its output, or the first of several.
    """

    module: str
    run: int
    input: Tensor
    output: Tensor

    @property
    def name(self) -> str:
        """The module, and its run if it runs several times: ``2``, then ``2 (run 2)``."""
        return self.module if self.run == 1 else f"{self.module} (run {self.run})"

    @property
    def residual(self) -> Tensor | None:
        """What the module adds to its input; ``None`` if the shapes differ."""
        return self.output - self.input if self.output.shape == self.input.shape else None


def stages(network: nn.Module, lr: Tensor) -> list[Stage]:
    """The head and each block of the body, in the order in which they ran.

    Args:
        network: A network with ``head`` and ``body``, as every network of `sr_lab.models` has.
        lr: ``(N, C, H, W)`` in [0, 1].

    Returns:
        One stage for each run of a part, so that a block that runs twice appears twice.

    Raises:
        ConfigError: The network has no body, or its blocks do not run one by one.
    """
    head, body = getattr(network, "head", None), getattr(network, "body", None)
    blocks = list(cast(Iterable[nn.Module], body)) if isinstance(body, nn.Sequential | nn.ModuleList) else []
    if not blocks:
        raise ConfigError(
            f"analyze: {type(network).__name__} has no body of blocks; "
            "kind=psd, residual and features need one"
        )
    named = {"head": head} if isinstance(head, nn.Module) else {}
    named |= {str(number): block for number, block in enumerate(dict.fromkeys(blocks), start=1)}
    found = record(network, lr, named)
    if len(found) <= 1:
        raise ConfigError(
            f"analyze: the blocks of {type(network).__name__} do not run one by one; there is nothing to show"
        )
    return found


def record(network: nn.Module, lr: Tensor, named: dict[str, nn.Module]) -> list[Stage]:
    """Run the network once and record the input and output of each run of the given modules.

    Args:
        network: Any network; at the end, the hooks are removed and the training mode is restored.
        lr: ``(N, C, H, W)`` in [0, 1].
        named: The modules, by the names that their stages get.
    """
    found: list[Stage] = []
    entered: dict[str, Tensor] = {}
    runs = dict.fromkeys(named, 0)

    def before(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[object, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                entered[name] = inputs[0].clone()  # the module or a later one may work in place

        return hook

    def after(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(_: nn.Module, __: tuple[object, ...], output: object) -> None:
            first = output[0] if isinstance(output, tuple | list) else output
            if isinstance(first, Tensor) and name in entered:
                runs[name] += 1
                found.append(Stage(name, runs[name], entered.pop(name), first.clone()))

        return hook

    handles: list[RemovableHandle] = []
    modes = {module: module.training for module in network.modules()}
    try:
        for name, module in named.items():
            handles += [
                module.register_forward_pre_hook(before(name)),
                module.register_forward_hook(after(name)),
            ]
        with torch.no_grad():
            network.eval()(lr)
    finally:
        for module, mode in modes.items():
            module.training = mode
        for handle in handles:
            handle.remove()
    return found
