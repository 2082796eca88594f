"""What Hydra reads and does itself, before a run is checked: its files, and the settings of its own node."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sr_lab import files
from sr_lab.config import targets
from sr_lab.errors import ConfigError

PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The configuration files: beside the code in an installed wheel, one folder up in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def key_of(override: str) -> str:
    """``model.num_feat`` of ``+model.num_feat=8``; the group of a group's override."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def is_said(key: str, overrides: Sequence[str]) -> bool:
    """Whether the command line itself sets a key, or part of it."""
    return any(f"{key_of(override)}.".startswith(f"{key}.") for override in overrides)


def check_file(path: Path) -> None:
    """Refuse a configuration file that is too large, in itself or written out.

    Raises:
        ConfigError: It is.
    """
    try:
        files.check_yaml(files.read_text(path, max_bytes=files.MAX_YAML_BYTES))
    except ValueError as error:
        raise ConfigError(f"{path}: is no configuration: {error}; mend or remove it") from error


def check_hydra(node: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse settings of Hydra itself that run code before a run is validated.

    Args:
        node: The composed ``hydra`` node.
        overrides: What the command line says.

    Raises:
        ConfigError: Callbacks, environment variables, a launcher or sweeper that is no plugin of Hydra, or
            logging that names a factory.
    """
    for key in ("callbacks", "job.env_set"):
        if OmegaConf.select(node, key):
            raise ConfigError(
                f"hydra.{key}: is not allowed, since it acts before a run is checked; remove it"
            )
    if not set(node.overrides.task) <= set(overrides):  # what the command line said decides whom we trust
        raise ConfigError("hydra.overrides: is not allowed in a file; remove it")
    for key, ours in _FOLDERS.items():
        group, _, name = key.rpartition(".")
        values = OmegaConf.to_container(node[group] if group else node, resolve=False)
        assert isinstance(values, dict)
        written = values[name]
        if written not in ours and not is_said(f"hydra.{key}", overrides):
            raise ConfigError(f"hydra.{key}: is not allowed in a file, got {written!r}; remove it")
    for key in ("launcher", "sweeper"):
        target = str(OmegaConf.select(node, f"{key}._target_"))
        if not target.startswith(("hydra._internal.core_plugins.", "hydra_plugins.")):
            raise ConfigError(
                f"hydra.{key}._target_: '{target}' is no plugin of Hydra; choose hydra/{key}=<option>"
            )
        settings = OmegaConf.to_container(node[key], resolve=True)
        assert isinstance(settings, dict)
        for setting, value in settings.items():
            name = str(setting)
            if targets.holds_target(value):  # Hydra would build it, whatever it is
                raise ConfigError(f"hydra.{key}.{name}: holds a _target_, which is not allowed; remove it")
            in_script = bool(value) if name in _SHELL else "\n" in str(value)
            if key == "launcher" and in_script and not is_said(f"hydra.{key}.{name}", overrides):
                raise ConfigError(
                    f"hydra.{key}.{name}: goes to the cluster's shell and is not allowed in a file, "
                    f"got {value!r}; say it on the command line"
                )
    for key in ("job_logging", "hydra_logging"):
        logged = OmegaConf.to_container(node[key], resolve=False) if node.get(key) is not None else None
        _check_logging(f"hydra.{key}", logged)


# Where Hydra itself writes: as conf/config.yaml says, or as Hydra does of itself.
_NOW = "${now:%Y-%m-%d}/${now:%H-%M-%S}"
_FOLDERS = {
    "run.dir": ("${run_dir:}", f"outputs/{_NOW}"),
    "sweep.dir": ("${sweep_dir:}", f"multirun/{_NOW}"),
    "sweep.subdir": ("${run_folder:}", "${hydra.job.num}"),
    "output_subdir": (None, ".hydra"),
}
# Of submitit's launchers: what ends up in the script of a job.
_SHELL = ("setup", "python", "srun_args", "additional_parameters")


_HANDLERS = ("logging.StreamHandler", "logging.NullHandler")
_LOG = "${hydra.runtime.output_dir}/${hydra.job.name}.log"  # of Hydra's own default


def _check_logging(place: str, value: object) -> None:
    """logging.config builds whatever class or factory it is given."""
    if isinstance(value, Mapping):
        if value.get("class") == "logging.FileHandler" and value.get("filename") == _LOG:
            value = {key: child for key, child in value.items() if key not in ("class", "filename")}
        for key, child in value.items():
            # A handler of files writes where and what a stranger likes, into ~/.bashrc for one.
            if key == "()" or (key == "class" and child not in _HANDLERS):
                raise ConfigError(
                    f"{place}.{key}: {child!r} is not allowed; use one of {', '.join(_HANDLERS)}"
                )
            _check_logging(f"{place}.{key}", child)
    elif isinstance(value, list):
        for child in value:
            _check_logging(place, child)
    elif (
        isinstance(value, str)
        and (
            value.startswith(("ext://", "cfg://")) or "${" in value
        )  # what would come of it is not known yet
        and not value.startswith("ext://sys.std")
    ):
        raise ConfigError(f"{place}: {value!r} is not allowed; use ext://sys.stdout or ext://sys.stderr")
