"""Checks what Hydra reads and runs before it calls us: its files, and the settings of its own node.

Hydra builds whatever launcher, sweeper, callbacks and logging handlers are named in its own node, and any
file on its search path can add names there. `guarded` adds a check of each file and of what each file gives
to that node.
"""

import contextlib
import functools
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.conf import HelpConf, HydraConf, RunDir, SweepDir
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf

from sr_lab import files
from sr_lab.config import targets
from sr_lab.config.overrides import is_address, is_set, key_of, only_typed
from sr_lab.errors import ConfigError
from sr_lab.files import conf_dir as conf_dir

# Our defaults for Hydra, in every configuration. They keep Hydra from writing files of its own, since links
# in an untrusted folder could redirect them.
_OPTIONS = {
    "launcher": "basic",
    "sweeper": "basic",
    "callbacks": None,
    "job_logging": "stdout",
    "hydra_logging": "none",
    "env": "default",
    "help": "default",
    "hydra_help": "default",
}
_DEFAULTS = HydraConf(
    defaults=[{group: option} for group, option in _OPTIONS.items()],
    run=RunDir("${run_dir:}"),  # <output_dir>/<experiment_name>/<run_name>-<hash>
    sweep=SweepDir("${sweep_dir:}", "${run_folder:}"),
    output_subdir=None,
)


def store_defaults(defaults: HydraConf | DictConfig = _DEFAULTS) -> None:
    """Give Hydra our defaults instead of its own."""
    ConfigStore.instance().store("config", defaults, group="hydra", provider="hydra")


@contextlib.contextmanager
def guarded(composed: Callable[[DictConfig], object] = lambda _: None) -> Iterator[None]:
    """In this context, give Hydra our defaults, and check each file before Hydra uses it.

    Args:
        composed: Called with each composition that has passed the checks.
    """
    compose, load = ConfigLoaderImpl._load_configuration_impl, ConfigLoaderImpl._load_single_config

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
        _trust_no_folder(result.hydra, overrides)
        composed(result)
        return result

    @functools.wraps(load)
    def placed(loader: ConfigLoaderImpl, default: ResultDefault, *rest: Any, **named: Any) -> ConfigResult:
        result = load(loader, default, *rest, **named)
        # `bounded` reads Hydra's options only from Hydra's packages, so they need no check, unless another
        # option names them.
        is_hydras = str(default.config_path).startswith("hydra/")
        if not is_hydras or default.parent not in ("<root>", "hydra/config"):
            check_node(str(default.config_path), result.config)
        return result

    def bounded(
        source: ConfigSource, read: Callable[[ConfigSource, str], ConfigResult], config_path: str
    ) -> ConfigResult:
        # Any other file could be read: its values could be uploaded, its interpolations resolved unchecked.
        if config_path.startswith("/") or ".." in config_path.split("/"):
            raise ConfigError(
                f"'{config_path}': leads out of the folders that are searched for options; "
                "choose an option in one of them"
            )
        if source.scheme() == "pkg":
            return read(source, config_path)
        path = Path(source.path, config_path.removesuffix(".yaml") + ".yaml")
        if config_path.startswith("hydra/"):
            raise ConfigError(f"{path}: a file may not contain options of Hydra; remove this file")
        if path.is_file():
            folder = Path(source.path).resolve()
            if not path.resolve().is_relative_to(folder) and folder != conf_dir():  # installers link ours
                raise ConfigError(
                    f"{path}: is a link to a file outside the folder that is searched; "
                    "replace the link with a copy of that file"
                )
            check_size(path)
        result = read(source, config_path)
        check_file(path, result.config)
        return result

    Plugins.instance()  # imports every plugin again, which replaces the classes that are patched below
    patches: list[tuple[type, str, object]] = [
        (ConfigLoaderImpl, "_load_configuration_impl", checked),
        (ConfigLoaderImpl, "_load_single_config", placed),
    ]
    for kind in (SourcesRegistry.instance().resolve(scheme) for scheme in ("file", "pkg")):
        patches.append((kind, "load_config", functools.partialmethod(bounded, kind.load_config)))
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in patches]
    hydras = ConfigStore.instance().load("hydra/config.yaml").node
    store_defaults()
    try:
        for owner, name, value in patches:
            setattr(owner, name, value)
        yield
    finally:
        store_defaults(hydras)
        for owner, name, value in before:
            setattr(owner, name, value)


def answer_help(answer: Callable[[DictConfig, HydraConf], str]) -> None:
    """Let ``--help`` print our text instead of Hydra's.

    Args:
        answer: Makes the text from the composed configuration without Hydra's node, and from that node.
    """
    hydras = Hydra.get_help

    @functools.wraps(hydras)
    def get_help(program: Hydra, help_cfg: DictConfig, cfg: DictConfig, *rest: Any, **named: Any) -> str:
        if OmegaConf.get_type(help_cfg) is HelpConf:
            return answer(cfg, HydraConfig.get())
        # --hydra-help lists the names of files, which may be untrusted.
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
# Any other $ before punctuation or at the end: before \{, since Hydra removes the backslash in a row or in a
# sweep's axis, and at the end, since another value could add the brace.
_OTHER = re.compile(r"\$(?!\w)")


def check_file(path: Path, content: object) -> None:
    """Refuse a file with resolvers other than ours, with control characters, or with a search path.

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


# The keys of Hydra's node that a file may set, in addition to its mode.
_OF_FILES = ("hydra.help.", "hydra.sweeper.params.")


def check_node(option: str, content: Container) -> None:
    """Refuse a file that sets more of Hydra's node than its mode, its help, and the axes of a sweep.

    Args:
        option: The file, for error messages.
        content: Its settings, at their place in the configuration.

    Raises:
        ConfigError: The message names the setting.
    """
    values = OmegaConf.to_container(content, resolve=False)

    def check(key: str, value: object) -> None:
        if isinstance(value, Mapping):
            for name, child in value.items():
                check(f"{key}.{name}", child)
        elif key != "hydra.mode" and not key.startswith(_OF_FILES):
            raise ConfigError(
                f"{key}: is not allowed in a file ({option}.yaml), got {value!r}; move it to the command line"
            )

    if isinstance(values, Mapping) and values.get("hydra") is not None:
        check("hydra", values["hydra"])


def check_hydra(node: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse options of Hydra that a file chose, and settings that could run code or that must be typed.

    Raises:
        ConfigError: The message names the setting.
    """
    for group, option in node.runtime.choices.items():
        name = group.removeprefix("hydra/")
        if name != group and option != _OPTIONS.get(name) and group not in map(key_of, overrides):
            raise ConfigError(f"{group}: '{option}' is not allowed in a file; choose it on the command line")
    for key in ("callbacks", "job.env_set"):  # env_copy would store the environment there
        if OmegaConf.select(node, key):
            raise ConfigError(f"hydra.{key}: is not supported; remove it")
    for key in ("launcher", "sweeper"):
        settings: Any = OmegaConf.to_container(
            node[key], resolve=True
        )  # a typed ${...} may refer to a value from a file
        for setting, content in settings.items():
            if "_target_" in files.texts(content):
                raise ConfigError(f"hydra.{key}.{setting}: contains a _target_; remove it")
    for name, value in (node.sweeper.get("params") or {}).items():
        is_typed = is_set(f"hydra.sweeper.params.{name}", overrides)
        is_several = "{" in str(value)  # dataset={cache_dir: ...} would set what only_typed refuses
        if not is_typed and (is_several or only_typed(name) or is_address(str(value))):
            raise ConfigError(
                f"hydra.sweeper.params.{name}: is not allowed in a file; set it on the command line"
            )


def _trust_no_folder(node: DictConfig, overrides: Sequence[str]) -> None:
    """Keep submitit from reading pickles that already exist, and Hydra from writing through links."""
    if "submitit_folder" in node.launcher and not is_set("hydra.launcher.submitit_folder", overrides):
        node.launcher.submitit_folder = f"${{hydra.sweep.dir}}/.submitit/{uuid.uuid4().hex}/%j"
    if node.mode == RunMode.MULTIRUN:
        always_written = Path(node.sweep.dir, "multirun.yaml")
        if always_written.is_symlink():
            always_written.unlink()
