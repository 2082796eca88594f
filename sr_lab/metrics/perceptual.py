"""LPIPS and DISTS: how far an SR image is from the HR image in the features of an object-recognition network.

torchmetrics computes them with torchvision's networks (extra ``perceptual``). The weights of these networks
are never downloaded here: they are read from the folder in which torchvision keeps them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from sr_lab.datasets.cache import digest_of
from sr_lab.errors import ConfigError, DataError
from sr_lab.ops.metrics import quantise
from sr_lab.ops.resize import mod_crop
from sr_lab.system.devices import exact_float32

Name: TypeAlias = Literal["lpips", "lpips_vgg", "dists"]

MIN_SIDE = 32  # the last feature maps of these networks would be empty for smaller images


class _Kind(NamedTuple):
    weights: str  # torchvision's name of the network
    make: Callable[[], nn.Module]  # reads the weights


def _lpips(net: Literal["alex", "vgg"]) -> nn.Module:
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    made: nn.Module = LearnedPerceptualImagePatchSimilarity(net, normalize=True)
    return made


def _dists() -> nn.Module:
    from torchmetrics.functional.image.dists import (
        DISTSNetwork,
    )  # torchmetrics' metric would read the weights for every image

    made: nn.Module = DISTSNetwork()
    return made


# LPIPS: Zhang et al., CVPR 2018, version 0.1 with linear weights; DISTS: Ding et al., TPAMI 2022.
_KINDS: dict[Name, _Kind] = {
    "lpips": _Kind("alexnet", lambda: _lpips("alex")),
    "lpips_vgg": _Kind("vgg16", lambda: _lpips("vgg")),
    "dists": _Kind("vgg16", _dists),
}


class Perceptual(nn.Module):
    """Distances between images; 0 for equal images, and lower is better.

    Args:
        names: Which distances.

    Raises:
        ConfigError: torchvision or the weights of a network are missing, or the weights are damaged.
    """

    def __init__(self, names: Sequence[Name]) -> None:
        super().__init__()
        for name in names:
            _check_weights(name)
        with torch.random.fork_rng(devices=[]):  # building a network draws its initial weights
            self.distances = nn.ModuleDict({name: _KINDS[name].make().eval() for name in names})

    @torch.inference_mode()
    def forward(self, sr: Tensor, hr: Tensor, *, scale: int, crop: int, image: str) -> Tensor:
        """Compare the 8-bit RGB result with the HR image.

        Args:
            sr: ``(1, 3, H', W')`` in [0, 1], not clamped.
            hr: uint8 ``(1, 3, H, W)``; cropped at the right and bottom to multiples of ``scale`` first.
            scale: Upscaling factor.
            crop: Pixels dropped at every edge.
            image: Name of the image, for error messages.

        Returns:
            float64 ``(number of distances,)``.

        Raises:
            DataError: After cropping, a side has fewer than 32 pixels.
        """
        height, width = sr.shape[-2:]
        if (side := min(height, width) - 2 * crop) < MIN_SIDE:
            raise DataError(
                f"perceptual: without the {crop} pixels cropped at every edge, the shorter side of {image} "
                f"has {side} pixels; LPIPS and DISTS need at least {MIN_SIDE}, so leave perceptual out"
            )
        inside = (..., slice(crop, height - crop), slice(crop, width - crop))
        target = (mod_crop(hr, scale).float() / 255)[inside]
        result = quantise(sr.float())[inside]
        with exact_float32():
            found = [distance(result, target).double().reshape(1) for distance in self.distances.values()]
        return torch.cat(found)


def _check_weights(name: Name) -> None:
    try:
        from torchvision.models import get_model_weights
    except ImportError as error:
        raise ConfigError(
            f"perceptual: {name} needs torchvision; run pip install 'sr_lab[perceptual]', or leave {name} out"
        ) from error
    address = get_model_weights(_KINDS[name].weights).DEFAULT.url
    file = Path(torch.hub.get_dir(), "checkpoints", address.rpartition("/")[2])
    if not file.is_file():
        raise ConfigError(
            f"perceptual: {name} needs weights that are missing; download {address} as {file}, "
            f"or leave {name} out"
        )
    digest = file.stem.rpartition("-")[2]  # the beginning of the SHA-256
    if not digest_of(file).startswith(digest):
        raise ConfigError(f"perceptual: {file} is damaged; download it again from {address}")
