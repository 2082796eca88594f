"""A network's weights as the file that its authors' code reads."""

import copy
import functools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sr_lab.layers.folding import fold
from sr_lab.layers.image import DIV2K_MEAN, without_mean_shift
from sr_lab.models import swinir_light
from sr_lab.models.carn import CARN
from sr_lab.models.span import SPAN
from sr_lab.models.vdsr import VDSR
from sr_lab.ops.renaming import OfficialNames, official_names

_SWINIR_PATCH = 64  # LR pixels of the patches on which the authors trained


def official_weights(network: nn.Module) -> dict[str, Tensor] | None:
    """The weights under the authors' names and in their value range; ``None`` if there are no such names.

    Includes the constants that the authors' code keeps among the weights and that ours computes: the frozen
    convolutions of DIV2K's mean, SPAN's folded convolutions, and SwinIR's positions and masks.
    """
    state = network.state_dict()
    for table in official_names(network):
        try:
            theirs = table.to_theirs(state, network)
        except KeyError:
            continue
        if isinstance(network, VDSR):
            return _matlab_axes(theirs)
        add = _CONSTANTS.get(type(network))
        more = {} if add is None else add(network)
        return {**theirs, **_mean_shift(table, network), **more}
    return None


def _mean_shift(table: OfficialNames, network: nn.Module) -> dict[str, Tensor]:
    """What `without_mean_shift` drops from the authors' files."""
    prepare = table.prepare
    if not isinstance(prepare, functools.partial) or prepare.func is not without_mean_shift:
        return {}
    inner = "shifter." if isinstance(network, CARN) else ""
    mean = prepare.keywords["gain"] * torch.tensor(DIV2K_MEAN)
    return {
        f"{sign}_mean.{inner}{name}": value
        for sign, bias in (("sub", -mean), ("add", mean))
        for name, value in (("weight", torch.eye(3).view(3, 3, 1, 1)), ("bias", bias))
    }


def _matlab_axes(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """VDSR's filters in MATLAB's order, (kh, kw, in, out)."""
    return {name: value.permute(2, 3, 1, 0) if value.ndim == 4 else value for name, value in state.items()}


def _folded_too(network: nn.Module) -> Mapping[str, Tensor]:
    """The folded convolutions, which SPAN's files contain in addition to the branches."""
    folded = fold(copy.deepcopy(network))
    for table in official_names(folded):
        try:
            return table.to_theirs(folded.state_dict(), folded)
        except KeyError:
            continue
    return {}


def _windows(network: nn.Module) -> Mapping[str, Tensor]:
    """Positions and masks of SwinIR's windows; the masks are for the size of the authors' patches."""
    found = {}
    for name, layer in network.named_modules():
        if isinstance(layer, swinir_light.STL):
            _, block, _, place = name.split(".")  # body.2.layers.3
            theirs = f"layers.{block}.residual_group.blocks.{place}"
            found[f"{theirs}.attn.relative_position_index"] = layer.attention.position
            if layer.shift:
                patch = torch.zeros(1, _SWINIR_PATCH, _SWINIR_PATCH, 1)
                mask = swinir_light._shift_mask(patch, layer.window_size, layer.shift)
                found[f"{theirs}.attn_mask"] = mask.squeeze(1)
    return found


_CONSTANTS: Mapping[type[nn.Module], Callable[[nn.Module], Mapping[str, Tensor]]] = {
    SPAN: _folded_too,
    swinir_light.SwinIRLight: _windows,
}
