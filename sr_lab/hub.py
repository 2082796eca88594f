"""Networks in repositories of the Hugging Face Hub, or in folders of the same form (extra ``hub``)."""

import functools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from torch import Tensor, nn

from sr_lab import files
from sr_lab.checkpoints.opening import build_network, describe, refuse_larger_than
from sr_lab.checkpoints.reading import Checkpoint, open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.config.schema import StoredNetwork
from sr_lab.errors import CheckpointError, ConfigError
from sr_lab.inference.exports import as_safetensors
from sr_lab.inference.model_card import model_card
from sr_lab.layers.network import colour_of, min_size_of, multi_adds_rule_of
from sr_lab.tasks.export import name_of, sections_of
from sr_lab.zoo.published import named
from sr_lab.zoo.shipped import file_of

try:
    from huggingface_hub import ModelCard, ModelHubMixin, hf_hub_download
except ModuleNotFoundError as missing:
    raise ConfigError(
        "HubNetwork: the package huggingface_hub is not installed; pip install 'sr_lab[hub]'"
    ) from missing

_WEIGHTS, _CONFIG = "model.safetensors", "config.json"
_CARD = """---
library_name: sr_lab
pipeline_tag: image-to-image
tags: [super-resolution, model_hub_mixin]
---

"""
_USE = """```python
import sr_lab

network = sr_lab.HubNetwork.from_pretrained("<this repository>")
sr_lab.upscale("photo.png", network).save("large.png")
```"""


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


class HubNetwork(nn.Module, ModelHubMixin):
    """A network that can be written to, and read from, a repository of the Hub or a folder.

    network = HubNetwork.from_pretrained("outputs/train/imdn_x4-1a2b3c4d")
    network.push_to_hub("me/imdn_x4")

    A repository holds ``model.safetensors``, which `sr_lab.load` opens too, ``config.json`` with the settings
    of the network, and ``README.md``, the model card. Use `from_pretrained`, not the constructor.

    Args:
        network: The network with its weights.
        described: Its settings.
        sections: What the card says about the network's origin, training and results: title -> lines.

    Shape:
        lr ``(N, C, H, W)`` in [0, 1] -> sr ``(N, C, rH, rW)``, not clamped.
    """

    def __init__(
        self, network: nn.Module, described: StoredNetwork, sections: Mapping[str, Sequence[str]]
    ) -> None:
        super().__init__()
        self.network = network
        self.described = described
        self.sections = dict(sections)
        self.scale = described.scale
        self.colour = colour_of(network)
        self.min_size = min_size_of(network)
        self.multi_adds_rule = multi_adds_rule_of(network)

    def forward(self, lr: Tensor) -> Tensor:
        """Upscale lr."""
        sr: Tensor = self.network(lr)
        return sr

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the Hub's takes any further argument for the constructor
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        allow: Sequence[str] = (),
        note: Callable[[str], object] = _warn,
    ) -> Self:
        """Read a network; no code in its files is run, so they may be untrusted.

        Args:
            pretrained_model_name_or_path: A folder from `save_pretrained`; a run folder, checkpoint file or
                ``zoo/<name>``, as for `sr_lab.load`; or a repository of the Hub, ``owner/name``.
            force_download: Download again what is in the cache.
            token: The Hub's token; ``None`` for that of ``hf auth login``.
            cache_dir: The Hub's cache.
            local_files_only: Use only what is in the cache.
            revision: Branch, tag or commit.
            allow: Your own packages whose classes ``config.json`` may name.
            note: Called with a sentence about what the weights do not determine, such as the scale.

        Returns:
            The network in evaluation mode.

        Raises:
            CheckpointError: A file is missing, damaged, or does not fit the network.
            ConfigError: ``config.json`` describes no network, or one that is not allowed.
        """
        given = str(pretrained_model_name_or_path)
        here = Path(given).expanduser()
        config, weights = here / _CONFIG, here / _WEIGHTS
        is_name = named(given, "hub") is not None or file_of(given, "hub") is not None
        if is_name or (here.exists() and not weights.is_file()):
            return cls._of(open_checkpoint(given, "hub", note), given, allow, note)
        if not here.exists():
            fetch = functools.partial(
                hf_hub_download,
                given,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                token=token,
                local_files_only=local_files_only,
            )
            try:
                config, weights = Path(fetch(_CONFIG)), Path(fetch(_WEIGHTS))
            except Exception as error:  # the Hub's own classes, and those of its HTTP client
                why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
                raise CheckpointError(
                    f"hub: there is no file or folder '{given}', and the repository of this name could not "
                    f"be fetched: {why}"
                ) from error
        checkpoint = open_checkpoint(str(weights), "hub", note)
        if config.is_file():
            checkpoint = replace(checkpoint, record=_record(config))
        return cls._of(checkpoint, None, allow, note)

    @classmethod
    def _of(
        cls,
        checkpoint: Checkpoint,
        origin: str | None,
        allow: Sequence[str],
        note: Callable[[str], object],
    ) -> Self:
        """The network of a checkpoint; ``origin`` is ``None`` for a repository, whose own card states it."""
        described = describe(checkpoint, key="hub", allow=allow, note=note)
        with refuse_larger_than(checkpoint, "hub"):
            network = build_network(described, allow)
        load_weights(network, checkpoint, key="hub")
        return cls(network.eval(), described, sections_of(origin, described.scale)).eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        record = self.described.model_dump()
        files.write(save_directory / _WEIGHTS, as_safetensors(self.network, record).content)
        files.write(save_directory / _CONFIG, json.dumps(record, indent=2, sort_keys=True) + "\n")

    def generate_model_card(self, *args: object, **kwargs: object) -> ModelCard:
        """The model card: network, origin, training, results, and how to load the weights."""
        exported = as_safetensors(self.network, self.described.model_dump())
        card = model_card(
            name_of(self.described),
            self.network,
            self.scale,
            {"safetensors": (Path(_WEIGHTS), exported)},
            {"Use": [_USE], **self.sections},
            size=None,
            dtype="float32",
        )
        return ModelCard(_CARD + card)


def _record(config: Path) -> dict[str, object]:
    """The content of a ``config.json``, which is checked by `describe`.

    Raises:
        ConfigError: It is not a small JSON object.
    """
    try:
        record = files.read_json(config)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"hub: '{config}' cannot be read: {error}; download it again") from error
    if not isinstance(record, dict):
        raise ConfigError(f"hub: '{config}' does not describe a network; write it with save_pretrained")
    return record
