"""What Hydra reads and runs before a run is checked: its files, and the settings of its own node.

Any file on Hydra's search path can name callbacks, launchers and logging handlers, which Hydra builds before
it calls us. `install` puts a check between composing and using them.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from sr_lab import files
from sr_lab.config import targets
from sr_lab.config.overrides import is_set
from sr_lab.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The configuration files: inside the package when installed as a wheel, next to it in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def install(composed: Callable[[DictConfig], None]) -> None:
    """Check each configuration file before Hydra reads it, and Hydra's own node before Hydra uses it.

    Args:
        composed: Called with each composition that has passed.
    """
    compose = ConfigLoaderImpl.load_configuration

    @functools.wraps(compose)
    def checked(
        loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], *rest: Any, **named: Any
    ) -> DictConfig:
        result = compose(loader, config_name, overrides, *rest, **named)
        check_hydra(result.hydra, overrides)
        composed(result)
        return result

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign, assignment]
    Plugins.instance()  # runs each plugin's module again: only after that is its class the one in use
    source_class = SourcesRegistry.instance().resolve("file")
    read = source_class.load_config

    @functools.wraps(read)
    def bounded(source: ConfigSource, config_path: str) -> ConfigResult:
        path = Path(source.path, config_path.removesuffix(".yaml") + ".yaml")
        if path.is_file():
            check_file(path)
        return read(source, config_path)

    source_class.load_config = bounded  # type: ignore[method-assign, assignment]


def quicken_help() -> None:
    """Ask for the options of a group without a copy of all configurations, of which --help would make 150.

    Without this, --help takes 6.8 times as long as importing Hydra, with it 3.4 times.
    """
    options = ConfigLoaderImpl.get_group_options

    @functools.wraps(options)
    def asked(
        loader: ConfigLoaderImpl,
        group_name: str,
        results_filter: ObjectType | None = ObjectType.CONFIG,
        config_name: str | None = None,
        overrides: list[str] | None = None,
    ) -> list[str]:
        if config_name is None and not overrides:  # they could change the search path
            return loader.repository.get_group_options(group_name, results_filter)
        return options(loader, group_name, results_filter, config_name, overrides)

    ConfigLoaderImpl.get_group_options = asked  # type: ignore[method-assign, assignment]


def check_file(path: Path) -> None:
    """Refuse a configuration file that is too large, as it stands or with its anchors written out.

    Raises:
        ConfigError: It is too large, or not YAML.
    """
    try:
        files.check_yaml(files.read_text(path, max_bytes=files.MAX_YAML_BYTES))
    except ValueError as error:
        raise ConfigError(f"{path}: is not a valid configuration: {error}; correct or remove it") from error


def check_hydra(node: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse settings of Hydra itself that run code before a run is validated.

    Raises:
        ConfigError: Callbacks, environment variables, other folders, a launcher or sweeper that is not a
            plugin of Hydra, or logging that names a class of its own.
    """
    for key in ("callbacks", "job.env_set"):
        if OmegaConf.select(node, key):
            raise ConfigError(
                f"hydra.{key}: is not allowed because it acts before a run is checked; remove it"
            )
    if not set(node.overrides.task) <= set(overrides):  # the command line decides whom we trust
        raise ConfigError("hydra.overrides: is not allowed in a file; remove it")
    for key, ours in _FOLDERS.items():
        group, _, name = key.rpartition(".")
        values = OmegaConf.to_container(node[group] if group else node, resolve=False)
        assert isinstance(values, dict)
        written = values[name]
        if written not in ours and not is_set(f"hydra.{key}", overrides):
            raise ConfigError(f"hydra.{key}: is not allowed in a file, got {written!r}; remove it")
    for key in ("launcher", "sweeper"):
        _check_plugin(key, node[key], overrides)
    for key in ("job_logging", "hydra_logging"):
        logging = OmegaConf.to_container(node[key], resolve=False) if node.get(key) is not None else None
        _check_logging(f"hydra.{key}", logging)


# Where Hydra itself writes: what conf/config.yaml says, and Hydra's own defaults.
_NOW = "${now:%Y-%m-%d}/${now:%H-%M-%S}"
_FOLDERS = {
    "run.dir": ("${run_dir:}", f"outputs/{_NOW}"),
    "sweep.dir": ("${sweep_dir:}", f"multirun/{_NOW}"),
    "sweep.subdir": ("${run_folder:}", "${hydra.job.num}"),
    "output_subdir": (None, ".hydra"),
}
# Settings of submitit's launchers that end up in the script of a job.
_SHELL = ("setup", "python", "srun_args", "additional_parameters")


def _check_plugin(key: str, node: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse a launcher or sweeper that is not Hydra's, that builds objects, or that writes into a script."""
    target = str(node.get("_target_"))
    if not target.startswith(("hydra._internal.core_plugins.", "hydra_plugins.")):
        raise ConfigError(
            f"hydra.{key}._target_: '{target}' is not a plugin of Hydra; choose hydra/{key}=<option>"
        )
    settings = OmegaConf.to_container(node, resolve=True)
    assert isinstance(settings, dict)
    for name, value in ((str(name), value) for name, value in settings.items()):
        if targets.holds_target(value):  # Hydra would build it, whatever it is
            raise ConfigError(f"hydra.{key}.{name}: holds a _target_, which is not allowed; remove it")
        in_script = bool(value) if name in _SHELL else "\n" in str(value)
        if key == "launcher" and in_script and not is_set(f"hydra.{key}.{name}", overrides):
            raise ConfigError(
                f"hydra.{key}.{name}: goes to the cluster's shell and is not allowed in a file, "
                f"got {value!r}; set it on the command line"
            )


_HANDLERS = ("logging.StreamHandler", "logging.NullHandler")
_LOG = "${hydra.runtime.output_dir}/${hydra.job.name}.log"  # in Hydra's own default


def _check_logging(place: str, value: object) -> None:
    """Refuse classes and factories, which logging.config would build whatever they are."""
    if isinstance(value, Mapping):
        if value.get("class") == "logging.FileHandler" and value.get("filename") == _LOG:
            value = {key: child for key, child in value.items() if key not in ("class", "filename")}
        for key, child in value.items():
            # A file handler writes what a stranger likes where a stranger likes, e.g. into ~/.bashrc.
            if key == "()" or (key == "class" and child not in _HANDLERS):
                raise ConfigError(
                    f"{place}.{key}: {child!r} is not allowed; use one of {', '.join(_HANDLERS)}"
                )
            _check_logging(f"{place}.{key}", child)
    elif isinstance(value, list):
        for child in value:
            _check_logging(place, child)
    elif isinstance(value, str):
        # Its value after interpolation is not known yet.
        is_reference = value.startswith(("ext://", "cfg://")) or "${" in value
        if is_reference and not value.startswith("ext://sys.std"):
            raise ConfigError(f"{place}: {value!r} is not allowed; use ext://sys.stdout or ext://sys.stderr")
