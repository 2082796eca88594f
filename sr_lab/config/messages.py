"""Errors of Hydra and OmegaConf as sentences for the user."""

import re

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sr_lab import files
from sr_lab.config.hydra_guard import conf_dir
from sr_lab.errors import SRLabError, did_you_mean


def explain(error: Exception) -> str | None:
    """An error as one sentence: ours unchanged, Hydra's and OmegaConf's reworded, ``None`` for any other."""
    said = _reworded(error)
    return None if said is None else files.printable(said)  # it may name a stranger's file


def _reworded(error: Exception) -> str | None:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, SRLabError):
            return str(link)
    if isinstance(error, OSError) and error.filename is not None:  # a missing file, a read-only or full disk
        what = f"cannot use '{error.filename}': {error.strerror}"
        return f"{what}; fix that, or choose another folder with paths.output_dir or paths.cache_dir"
    if "Config group override must be a string" in str(error):
        return "a group takes the name of one of its options, got something else; --help lists the options"
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = next((str(link) for link in chain if str(link)), type(error).__name__)
    missing = re.search(r"Could not find '([^']*)'\s+Available options in '([^']*)':((?:\n\t\S+)*)", text)
    if missing:
        group, options = missing[2], missing[3].split()
        given = missing[1].removeprefix(f"{group}/")
        near = did_you_mean(given, options)
        return f"{group}: there is no option {given!r}; allowed: {', '.join(options)}{near}"
    unknown = re.search(r"Could not override '([^']*)'", text)
    if unknown:
        return _unknown_key(unknown[1])
    return " ".join(text.split())


def _unknown_key(key: str) -> str:
    """The message about a command-line key that the composed configuration does not have."""
    groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
    top, _, rest = key.partition(".")
    settings = OmegaConf.load(conf_dir() / "config.yaml")
    keys = sorted({*groups, *(str(name) for name in settings if name != "defaults")})
    if not rest:
        near = did_you_mean(key, keys)
        return f"{key}: there is no such group or setting; allowed: {', '.join(keys)}{near}"
    known: set[str] = set()
    for found in [
        OmegaConf.select(settings, top),
        *(OmegaConf.load(path) for path in (conf_dir() / top).glob("*.yaml")),
    ]:
        if isinstance(found, DictConfig):
            known.update(str(name) for name in found if name not in ("defaults", "_target_"))
    if rest in known:
        return f"{key}: the chosen option of '{top}' has no such setting; choose another option, or drop it"
    near = did_you_mean(rest, known) if known else did_you_mean(top, keys)
    return f"{key}: there is no such setting in '{top}'; write +{key} to add an argument of its class{near}"
