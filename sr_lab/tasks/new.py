"""``task=new``: write the files of a network in the user's own package."""

import keyword
import string
import sys
from collections.abc import Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.config.networks import model_options
from sr_lab.config.schema import NewConfig
from sr_lab.errors import ConfigError
from sr_lab.reporting.terminal import Terminal

_NETWORK = '''"""$title, a network of your own.

$train
"""

from collections.abc import Callable

from torch import Tensor, nn


class $title(nn.Module):
    """A convolution, residual blocks and a tail; replace them with your own idea.

    Args:
        scale: Upscaling factor r.
        num_feat: Width of the network.
        num_block: Number of residual blocks.
        upsampler: Builds the tail, called with ``num_feat``, ``num_out_ch`` and ``scale``; ``None`` builds a
            sub-pixel convolution.

    Shape:
        lr ``(N, 3, H, W)`` in [0, 1] -> sr ``(N, 3, rH, rW)``, not clamped.
    """

    def __init__(
        self,
        *,
        scale: int,
        num_feat: int = 32,
        num_block: int = 4,
        upsampler: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, num_feat, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(num_feat, num_feat, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(num_feat, num_feat, 3, padding=1),
            )
            for _ in range(num_block)
        )
        self.tail: nn.Module
        if upsampler is None:
            self.tail = nn.Sequential(nn.Conv2d(num_feat, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        else:
            self.tail = upsampler(num_feat=num_feat, num_out_ch=3, scale=scale)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale a batch of images."""
        features = self.head(lr)
        for block in self.body:
            features = features + block(features)
        sr: Tensor = self.tail(features)
        return sr
'''

_YAML = """# $title, a network of your own.
_target_: $package.$name.$title
scale: $${scale}
upsampler: $${upsampler.factory}
"""

_TEST = '''"""$title returns images of the right size, and every weight gets a gradient."""

import pytest
import torch

from $package.$name import $title


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_result_is_scale_times_as_large(scale: int) -> None:
    """An image of any size is upscaled."""
    lr = torch.rand(2, 3, 8, 12)
    assert $title(scale=scale)(lr).shape == (2, 3, 8 * scale, 12 * scale)


def test_every_weight_has_a_gradient() -> None:
    """Every part of the network is used."""
    network = $title(scale=2)
    network(torch.rand(1, 3, 8, 8)).mean().backward()
    assert all(weight.grad is not None for weight in network.parameters())
'''

_README = """# $package

    $train

`budget=smoke` in the same command trains a few tiny steps; `--help` explains the network. Its test:

    $test
"""


def run(config: NewConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Write the files and print the next commands.

    Raises:
        ConfigError: The name cannot be used or is taken, or a file exists.
    """
    name, package = config.name, Path(config.at).as_posix()
    _check(name, package)
    place = Path(package)
    words = {
        "name": name,
        "package": package,
        "title": "".join(part.capitalize() for part in name.split("_")),
        "train": f"python -m sr_lab --config-dir {package}/conf allow=[{package}] model={name}",
        "test": f"python -m pytest {package}/test_{name}.py",
    }
    texts = {
        place / f"{name}.py": _NETWORK,
        place / "conf" / "model" / f"{name}.yaml": _YAML,
        place / f"test_{name}.py": _TEST,
    }
    if existing := [str(path) for path in texts if path.exists() or path.is_symlink()]:
        exist, them = ("exists", "it") if len(existing) == 1 else ("exist", "them")
        raise ConfigError(f"name: {', '.join(existing)} {exist}; choose another name, or remove {them}")
    shared = {place / "__init__.py": '"""Your own networks."""\n', place / "README.md": _README}
    texts |= {path: text for path, text in shared.items() if not path.exists()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, string.Template(text).substitute(words))
    say = Terminal(markup=False, highlight=False, soft_wrap=True).print
    say(f"written: {', '.join(map(str, texts))}")
    for meaning, command in (
        ("a few tiny steps", f"{words['train']} budget=smoke"),
        ("training", words["train"]),
        ("what it is", f"{words['train']} --help"),
        ("its test", words["test"]),
    ):
        say(f"{meaning + ':':18}{command}")


def _check(name: str, package: str) -> None:
    for key, value in (("name", name), ("at", package)):
        if not (value.isascii() and value.isidentifier()) or keyword.iskeyword(value):
            raise ConfigError(
                f"{key}: must be a name that Python can import (letters, digits and _, no digit first, "
                f"not a Python keyword), got {value!r}"
            )
    if name != name.lower():
        raise ConfigError(f"name: must be in lower case, got {name!r}; write name={name.lower()}")
    if name in model_options():
        raise ConfigError(f"name: model={name} is already a network of sr_lab; choose another name")
    if name in ("conf", "__init__") or name.startswith("test_"):
        raise ConfigError(f"name: {name!r} would clash with another file of the package; choose another name")
    if (
        package == "sr_lab"
        or package in sys.stdlib_module_names
        or package in ("torch", "lightning", "hydra")
    ):
        raise ConfigError(f"at: {package!r} is a package that Python already has; choose another name")
