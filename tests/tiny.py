"""A network, patches and images small enough to train and measure within a test."""

from collections.abc import Sequence

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from sr_lab.checkpoints.catalogue import Entry
from sr_lab.config.networks import model_node
from sr_lab.inference.exports import as_safetensors
from sr_lab.protocol import PROTOCOLS
from sr_lab.training.data_module import SRDataModule
from sr_lab.training.lit_module import SRModule

PROTOCOL = PROTOCOLS["rgb_uint8"]


class TinyNet(nn.Module):
    """One convolution and a pixel shuffle."""

    def __init__(self, *, scale: int = 2) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 3 * scale**2, 3, padding=1)
        self.tail = nn.PixelShuffle(scale)

    def forward(self, lr: Tensor) -> Tensor:
        return self.tail(self.head(lr))


class Patches(Dataset[dict[str, Tensor]]):
    """A batch of random patches for each list of sample numbers; records the requested lists."""

    def __init__(self, *, scale: int = 2, size: int = 6) -> None:
        self.scale = scale
        self.size = size
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return 5

    def __getitems__(self, samples: Sequence[int]) -> dict[str, Tensor]:
        self.asked.append(list(samples))
        size, scale = self.size, self.scale
        drawn = [torch.Generator().manual_seed(sample) for sample in samples]
        return {
            "lr": torch.stack([_random((3, size, size), generator) for generator in drawn]),
            "hr": torch.stack([_random((3, scale * size, scale * size), generator) for generator in drawn]),
            "name": [str(sample) for sample in samples],
            "dihedral": torch.tensor([sample % 8 for sample in samples], dtype=torch.uint8),
        }


class Images(Dataset[dict[str, object]]):
    """A named set of random images."""

    def __init__(self, name: str, count: int, *, scale: int = 2, height: int = 24, width: int = 28) -> None:
        self.name = name
        generator = torch.Generator().manual_seed(count)
        self.hr = [_random((3, height, width), generator) for _ in range(count)]
        self.scale = scale

    def __len__(self) -> int:
        return len(self.hr)

    def __getitem__(self, index: int) -> dict[str, object]:
        hr = self.hr[index]
        lr = PROTOCOL.make_lr(hr[None], self.scale)[0]
        return {"lr": lr, "hr": hr, "name": f"image{index}", "grey": False}


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def trainer(folder: object, **settings: object) -> lightning.Trainer:
    """A trainer as ``task=train`` sets it up, without output on the screen."""
    defaults: dict[str, object] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": -1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "check_val_every_n_epoch": None,
        "default_root_dir": str(folder),
    }
    return lightning.Trainer(**(defaults | settings))


def sr_module(
    *,
    val: Sequence[Images] = (),
    test: Sequence[Images] = (),
    learning_rate: float = 1e-3,
    **settings: object,
) -> SRModule:
    """An ``SRModule`` on ``TinyNet``, ready to train with a constant learning rate."""
    torch.manual_seed(0)
    defaults: dict[str, object] = {
        "network": TinyNet(),
        "scale": 2,
        "protocol": PROTOCOL,
        "val_sets": {images.name: len(images) for images in val},
        "test_sets": [images.name for images in test],
        "loss": nn.L1Loss(),
        "make_optimizer": lambda parameters: torch.optim.SGD(parameters, lr=learning_rate),
        "make_scheduler": lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
    }
    return SRModule(**(defaults | settings))


def data(**settings: object) -> SRDataModule:
    """A data module with batches of two patches, unless a test sets another size."""
    return SRDataModule(**({"train": Patches(), "batch_size": 2} | settings))


def stored(option: str, scale: int, **settings: object) -> bytes:
    """A network of ``conf/model`` with fresh weights, as a file that also contains its settings."""
    torch.manual_seed(0)
    record = {
        "model": model_node(option, scale) | settings,
        "upsampler": {"name": "native", "factory": None},
        "strategy": {"name": "none", "apply": None},
        "scale": scale,
    }
    return as_safetensors(Entry(option, scale).build(**settings), record).content
