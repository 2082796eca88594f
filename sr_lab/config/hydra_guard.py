"""Checks what Hydra reads and runs before it calls us: its files, and the settings of its own node.

Hydra builds whatever launcher, sweeper, callbacks and logging handlers are named in its own node, and any
file on its search path can add names there. `install` adds a check of each file and of that node.
"""

import functools
import re
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.conf import HelpConf, HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sr_lab import files
from sr_lab.config import targets
from sr_lab.config.overrides import is_address, is_set, key_of, only_typed
from sr_lab.errors import ConfigError
from sr_lab.files import conf_dir as conf_dir


def install(composed: Callable[[DictConfig], None]) -> None:
    """Check each configuration file before Hydra uses it, and Hydra's own node before Hydra uses it.

    Args:
        composed: Called with each composition that has passed the checks.
    """
    compose = ConfigLoaderImpl._load_configuration_impl

    @functools.wraps(compose)
    def checked(
        loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *rest: Any, **named: Any
    ) -> DictConfig:
        check_packages([place.path for place in loader.get_search_path().get_path()], overrides)
        try:
            result = compose(loader, config_name, overrides, *rest, **named)
        except KeyError as error:
            raise ConfigError(f"hydra.job.env_copy: there is no variable {error}; remove it") from error
        check_hydra(result.hydra, overrides)
        _write_nothing(result.hydra, overrides)
        composed(result)
        return result

    ConfigLoaderImpl._load_configuration_impl = checked  # type: ignore[method-assign, assignment]
    Plugins.instance()  # imports every plugin again, which replaces the classes that are patched below

    def bounded(
        source: ConfigSource, read: Callable[[ConfigSource, str], ConfigResult], config_path: str
    ) -> ConfigResult:
        # Any file could be read and its values uploaded, or its interpolations resolved without a check.
        if config_path.startswith("/") or ".." in config_path.split("/"):
            raise ConfigError(
                f"'{config_path}': is not below a folder that is searched; choose an option there"
            )
        if source.scheme() == "pkg":
            return read(source, config_path)
        path = Path(source.path, config_path.removesuffix(".yaml") + ".yaml")
        if path.is_file():
            folder = Path(source.path).resolve()
            if not path.resolve().is_relative_to(folder) and folder != conf_dir():  # installers link ours
                raise ConfigError(
                    f"{path}: is a link out of the folder that is searched; copy the file there"
                )
            check_size(path)
        result = read(source, config_path)
        check_file(path, result.config)
        return result

    for scheme in ("file", "pkg"):
        kind = SourcesRegistry.instance().resolve(scheme)
        kind.load_config = functools.partialmethod(bounded, kind.load_config)  # type: ignore[method-assign, assignment]


def answer_help(answer: Callable[[DictConfig, HydraConf], str]) -> None:
    """Let ``--help`` print our text instead of Hydra's.

    Args:
        answer: Returns the text, given the composed configuration without Hydra's node, and that node.
    """
    hydras = Hydra.get_help

    @functools.wraps(hydras)
    def get_help(program: Hydra, help_cfg: DictConfig, cfg: DictConfig, *rest: Any, **named: Any) -> str:
        if OmegaConf.get_type(help_cfg) is HelpConf:
            return answer(cfg, HydraConfig.get())
        # --hydra-help lists names of files, which may be a stranger's.
        return files.printable(hydras(program, help_cfg, cfg, *rest, **named))

    Hydra.get_help = get_help  # type: ignore[method-assign, assignment]


def check_size(path: Path) -> None:
    """Refuse a configuration file that is too large, as written or with its anchors expanded.

    Raises:
        ConfigError: It is too large, or not YAML.
    """
    try:
        files.check_yaml(files.read_text(path, max_bytes=files.MAX_YAML_BYTES))
    except ValueError as error:
        raise ConfigError(f"{path}: is not a valid configuration: {error}; correct or remove it") from error


# The start of ${key}, or of a resolver that reads only the configuration or our own variables.
_KNOWN = re.compile(
    r"\$\{(?=[\w.@/\[\]-]+\}|(?:rows|run_dir|sweep_dir|run_folder|lr_side|share|rest|now|hydra"
    r"|oc\.select):|oc\.env:SR_LAB_\w*[,}])"
)
# Any other $ before punctuation: this includes $\{, since Hydra removes the escape in a row or in a sweep's
# axis, and a lone $, since another value could add the brace.
_OTHER = re.compile(r"\$(?!\w)")


def check_file(path: Path, content: object) -> None:
    """Refuse a file with other resolvers than ours, with control characters, or with a search path.

    Raises:
        ConfigError: The message names the file and quotes the text.
    """
    values = OmegaConf.to_container(content, resolve=False) if OmegaConf.is_config(content) else content
    for text in files.texts(values):
        if files.printable(text) != text:  # --help prints some of these
            raise ConfigError(f"{path}: {text!r} contains control characters; remove them")
        if _OTHER.search(_KNOWN.sub("\0", text)):
            raise ConfigError(
                f"{path}: {text!r} is not allowed in a file; allowed: ${{key}}, ${{oc.env:SR_LAB_...}} and "
                "sr_lab's own resolvers; set it on the command line"
            )
    if isinstance(content, DictConfig) and OmegaConf.select(content, "hydra.searchpath") is not None:
        raise ConfigError(f"{path}: hydra.searchpath is not allowed in a file; set it on the command line")


def check_packages(places: Sequence[str], overrides: Sequence[str]) -> None:
    """Refuse to search a package that the user does not trust, since searching imports it.

    Raises:
        ConfigError: A ``pkg://`` address names a package that is neither Hydra's nor trusted.
    """
    given = [override for override in overrides if key_of(override) == "hydra.searchpath"]
    allow = [override for override in overrides if key_of(override) == "allow"]
    trusted = targets.trusted_packages(re.findall(r"\w+", " ".join(allow).partition("=")[2]))
    for package in re.findall(r"pkg://([\w.]*)", " ".join([*places, *given])):
        if package.partition(".")[0] not in ("hydra", "hydra_plugins", *trusted):
            raise ConfigError(
                f"hydra.searchpath: '{package}' is not trusted; if you trust it, add allow=[{package}]"
            )


# Parts of Hydra's node that a file may set or that Hydra sets itself; the functions below check some of them.
_FREE = (
    *("mode", "verbose", "sweeper", "launcher", "help", "hydra_help", "runtime", "overrides"),
    *("job_logging", "hydra_logging"),
    *("job.override_dirname", "job.id", "job.num", "job.config_name", "job.config"),
)
# Where Hydra itself writes: the values of conf/config.yaml, and Hydra's own defaults.
_NOW = "${now:%Y-%m-%d}/${now:%H-%M-%S}"
_OURS = {
    "run.dir": ("${run_dir:}", f"outputs/{_NOW}"),
    "sweep.dir": ("${sweep_dir:}", f"multirun/{_NOW}"),
    "sweep.subdir": ("${run_folder:}", "${hydra.job.num}"),
    "output_subdir": (None, ".hydra"),
    "job.chdir": (None, False),
    "env": ({},),  # an empty group
}


def check_hydra(node: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse settings of Hydra itself that would let a file run code or write elsewhere.

    Raises:
        ConfigError: Only the command line may set one of the settings, or the logging is not Hydra's own.
    """
    listed = OmegaConf.to_container(node.overrides, resolve=False)
    assert isinstance(listed, dict)  # Hydra adds the command line to these lists and composes jobs from them
    if not set(files.texts(list(listed.values()))) <= set(overrides):
        raise ConfigError("hydra.overrides: is not allowed in a file; remove it")
    values, own = _settings(node), _settings(OmegaConf.structured(HydraConf))
    for key, value in values.items():
        free = any(f"{key}.".startswith(f"{name}.") for name in _FREE)
        named = key == "job.name" and re.fullmatch(r"[\w.-]*", str(value))
        if free or named or value in _OURS.get(key, (own.get(key),)):
            continue
        never = key.startswith(("callbacks", "job.env_set"))
        if never or not is_set(f"hydra.{key}", overrides):
            where = "" if never else " in a file"
            shown = "" if key.startswith("job.env") else f", got {value!r}"  # job.env_set may hold secrets
            raise ConfigError(f"hydra.{key}: is not allowed{where}{shown}; remove it")
    for key in ("launcher", "sweeper"):
        _check_plugin(key, node, overrides)
    _check_axes(node.sweeper.get("params") or {}, overrides)
    for key in ("job_logging", "hydra_logging"):
        _check_logging(key, node)


def _write_nothing(node: DictConfig, overrides: Sequence[str]) -> None:
    """Keep Hydra from writing its own files, except those that the command line asks for.

    In a stranger's folder, links could redirect them, and submitit would read pickles that are there.
    """
    if not is_set("hydra.output_subdir", overrides):
        node.output_subdir = None
    if not _is_chosen("hydra/job_logging", overrides):
        node.runtime.choices["hydra/job_logging"] = "stdout"
        node.job_logging = yaml.safe_load(
            _logging_options("job_logging")["stdout"].read_text(encoding="utf-8")
        )
    if "submitit_folder" in node.launcher and not is_set("hydra.launcher.submitit_folder", overrides):
        node.launcher.submitit_folder = f"${{hydra.sweep.dir}}/.submitit/{uuid.uuid4().hex}/%j"
    if node.mode == RunMode.MULTIRUN:
        always_written = Path(node.sweep.dir, "multirun.yaml")
        if always_written.is_symlink():
            always_written.unlink()


def _settings(node: DictConfig) -> dict[str, object]:
    """The settings of Hydra's node by their dotted names, with their interpolations left unresolved."""
    found: dict[str, object] = {}

    def add(key: str, value: object) -> None:
        if isinstance(value, Mapping) and value:
            for name, child in value.items():
                add(f"{key}.{name}" if key else str(name), child)
        else:
            found[key] = value

    add("", OmegaConf.to_container(node, resolve=False))
    return found


def _check_plugin(key: str, node: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse a launcher or sweeper that a file chooses or changes; Hydra accepts only classes of its plugins.

    Its settings start processes, become part of a job's script, and say which pickles are read.
    """
    option = str(node.runtime.choices.get(f"hydra/{key}"))
    if option != "basic" and not _is_chosen(f"hydra/{key}", overrides):
        raise ConfigError(f"hydra/{key}: '{option}' is not allowed in a file; choose it on the command line")
    own = _settings(ConfigStore.instance().load(f"hydra/{key}/{option}.yaml").node)
    for name, value in _settings(node[key]).items():
        is_axis = key == "sweeper" and name.partition(".")[0] == "params"  # see `_check_axes`
        if value != own.get(name) and not is_axis and not is_set(f"hydra.{key}.{name}", overrides):
            raise ConfigError(
                f"hydra.{key}.{name}: is not allowed in a file, got {value!r}; set it on the command line"
            )
    resolved = typing.cast("dict[str, object]", OmegaConf.to_container(node[key], resolve=True))
    for setting, content in resolved.items():
        if "_target_" in files.texts(content):
            raise ConfigError(f"hydra.{key}.{setting}: contains a _target_, which is not allowed; remove it")


def _is_chosen(group: str, overrides: Sequence[str]) -> bool:
    """Whether the command line chooses the option of a group."""
    return any(key_of(override) == group for override in overrides)


def _check_axes(params: Mapping[str, object], overrides: Sequence[str]) -> None:
    """Refuse sweep axes that only the command line may set, since Hydra turns them into typed overrides."""
    for name, value in params.items():
        is_typed = is_set(f"hydra.sweeper.params.{name}", overrides)
        is_several = "{" in str(value)  # dataset={cache_dir: ...} would set what only_typed refuses
        if not is_typed and (is_several or only_typed(name) or is_address(str(value))):
            raise ConfigError(
                f"hydra.sweeper.params.{name}: is not allowed in a file; set it on the command line"
            )


def _check_logging(key: str, node: DictConfig) -> None:
    """Refuse logging that is not one of Hydra's own options, since Python builds the classes it names."""
    options = _logging_options(key)
    chosen = options.get(str(node.runtime.choices.get(f"hydra/{key}")))  # the name alone, never a path
    own = None if chosen is None else yaml.safe_load(chosen.read_text(encoding="utf-8"))
    if own is None or OmegaConf.to_container(node[key], resolve=False) != own:
        raise ConfigError(
            f"hydra.{key}: must be one of Hydra's own ({', '.join(sorted(options))}); set hydra/{key}=default"
        )


def _logging_options(key: str) -> dict[str, Traversable]:
    folder = resources.files("hydra.conf") / "hydra" / key
    return {file.name.removesuffix(".yaml"): file for file in folder.iterdir()}
