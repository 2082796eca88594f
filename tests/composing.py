"""Compose configurations as the command line does; they share files, since tests compose thousands of them.

Hydra reads and merges about 30 files for each composition. Here the files of ``conf`` and of Hydra's own
package are read once per process, and each combination of these files is merged once, starting with the
first file in which it differs from an earlier combination. Any other file is read and merged each time, and
so are the files after it. For each file, Hydra also turns all choices into a configuration; only a default
that is an interpolation needs this.

Half of the remaining time goes to `copy.deepcopy`, which looks up how to copy each attribute of each node,
and to parsing the same interpolations again.
"""

import copy
import functools
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import hydra
import omegaconf.base
import pytest
from hydra import version
from hydra._internal import defaults_list as hydra_defaults
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.defaults_list import Overrides
from hydra._internal.hydra import Hydra
from hydra.core.default_element import InputDefault, ResultDefault
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, Node, nodes

from sr_lab.config import hydra_guard
from sr_lab.config.compose import load
from sr_lab.config.identity import register_resolvers
from sr_lab.config.schema import Config
from sr_lab.files import conf_dir

_TYPED = (nodes.BooleanNode, nodes.EnumNode, nodes.FloatNode, nodes.IntegerNode, nodes.StringNode)
_UNCHANGING = {("file", str(conf_dir())), ("pkg", "hydra.conf"), ("structured", "")}


# Stands for the files that are merged already; like Hydra's own files, it may hold settings of Hydra.
_MERGED = ResultDefault(config_path="hydra/merged_already", parent="hydra/config", primary=True)


class _Copies:
    """A repository whose results may be changed; with ``merged``, it has that configuration too."""

    def __init__(self, repository: IConfigRepository, merged: DictConfig | None = None) -> None:
        self._repository = repository
        self._merged = merged

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path == _MERGED.config_path:
            header = {"package": None}
            return ConfigResult("tests", "", copy.deepcopy(self._merged), header, is_schema_source=True)
        return copy.deepcopy(self._repository.load_config(config_path))


def _copied(node: Node, _memo: object = None) -> Node:
    """Copy a node and the nodes in it, with the same parent and plain values, as OmegaConf does."""
    copied, metadata = _like(node), _like(node._metadata)
    metadata.flags = dict(metadata.flags or {})
    metadata.resolver_cache = copy.deepcopy(metadata.resolver_cache)
    own = vars(copied)
    own.update(_metadata=metadata, _flags_cache=None)
    content = own.get("_content")
    if isinstance(content, dict):
        own["_content"] = {key: _inside(copied, child) for key, child in content.items()}
    elif isinstance(content, list):
        own["_content"] = [_inside(copied, child) for child in content]
    return copied


def _like(thing: Any) -> Any:
    """An object of the same class with the same attributes."""
    new = object.__new__(type(thing))
    vars(new).update(vars(thing))
    return new


def _inside(parent: Node, child: Node) -> Node:
    copied = copy.deepcopy(child)
    vars(copied)["_parent"] = parent
    return copied


def _equal(one: Sequence[object], other: Sequence[object]) -> int:
    """How many items at the beginning are equal."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def compose(*overrides: str) -> Config:
    """Compose and validate a configuration as the command line does."""
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose("config", list(overrides), return_hydra_config=True)
        return load(composed, overrides, composed.hydra.runtime.choices)


def share(patch: pytest.MonkeyPatch) -> None:
    """Let all compositions of this process share their files until the patch is undone."""
    hydra_guard.store_defaults()  # before Hydra's defaults are read for the only time
    files: dict[tuple[str, str], ConfigResult] = {}
    known: set[int] = set()  # of the results in `files`, which stay alive
    merged: dict[tuple[object, ...], DictConfig] = {}
    read = ConfigRepository.load_config
    merge = ConfigLoaderImpl._compose_config_from_defaults_list
    choices = hydra_defaults._create_interpolation_map
    nothing = DictConfig({})

    def read_once(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        source = repository._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or (source.scheme(), source.path) not in _UNCHANGING:
            return read(repository, config_path)
        key = (source.scheme(), config_path)
        if key not in files:
            files[key] = read(repository, config_path)
            known.add(id(files[key]))
        return files[key]

    def merge_once(
        loader: ConfigLoaderImpl, defaults: list[ResultDefault], repo: IConfigRepository
    ) -> DictConfig:
        shared = list(takewhile(lambda d: id(repo.load_config(d.config_path)) in known, defaults))
        key = tuple((d.config_path, d.package, d.primary) for d in shared)
        if key not in merged:
            begun = max((_equal(key, other) for other in merged), default=0)
            if begun not in (0, len(key)):  # the next combination that begins like these two continues here
                merge_once(loader, shared[:begun], repo)
                merged[key] = merge(loader, [_MERGED, *shared[begun:]], _Copies(repo, merged[key[:begun]]))
            else:
                merged[key] = merge(loader, shared, _Copies(repo))
        if len(shared) == len(defaults):
            return copy.deepcopy(merged[key])
        return merge(loader, [_MERGED, *defaults[len(shared) :]], _Copies(repo, merged[key]))

    def choices_if_needed(overrides: Overrides, defaults: list[InputDefault], self_added: bool) -> DictConfig:
        needed = any(not default.is_self() and default.is_interpolation() for default in defaults)
        return choices(overrides, defaults, self_added) if needed else nothing

    for kind in (DictConfig, ListConfig, nodes.AnyNode, *_TYPED):
        patch.setattr(kind, "__deepcopy__", _copied)
    patch.setattr(omegaconf.base, "parse", functools.cache(omegaconf.base.parse))
    patch.setattr(version, "_get_version", functools.cache(version._get_version))
    patch.setattr(hydra_defaults, "_create_interpolation_map", choices_if_needed)
    patch.setattr(ConfigRepository, "load_config", read_once)
    patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", merge_once)


def unwrap(patch: pytest.MonkeyPatch) -> None:
    """Let a patch that is undone also undo what the program wraps in Hydra when it runs in this process."""
    for owner, name in ((Hydra, "get_help"), (Hydra, "multirun")):
        patch.setattr(owner, name, vars(owner)[name])
