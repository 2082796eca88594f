"""Turns what the user types into what Hydra reads: an argument of a class needs no ``+``, a path no quotes.

Only the words of the command line come through here; files follow the rules of Hydra.
"""

import itertools
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from sr_lab.config.allowed import DESCRIBED
from sr_lab.config.schema import is_path, is_window
from sr_lab.config.suggestions import options, ours
from sr_lab.errors import ConfigError
from sr_lab.files import conf_dir

# Options of Hydra: those that take a word, and the others.
_VALUED = (
    "--config-path",
    "--config-name",
    "--config-dir",
    "--package",
    "--cfg",
    "-cp",
    "-cn",
    "-cd",
    "-p",
    "-c",
)
# Names that other programs give to the option for a recipe's file.
_RECIPES = ("opt", "option", "options", "config", "conf", "cfg_path")
_OTHERS = (
    "--help",
    "--hydra-help",
    "--version",
    "--resolve",
    "--run",
    "--multirun",
    "--info",
    "-h",
    "-r",
    "-m",
    "-i",
)


def understood(words: Sequence[str]) -> list[str]:
    """The words of a command line (without the program) as Hydra should read them.

    Raises:
        ConfigError: A word is neither ``key=value`` nor an option of Hydra, or its value cannot be read.
    """
    if any(word in ("--shell-completion", "-sc") for word in words):
        return list(words)
    parser = OverridesParser.create()
    one_job = not any(word in ("-m", "--multirun") for word in words)
    settings, flags = [], []  # argparse needs all settings before or after the options
    for before, word in zip(["", *words], words, strict=False):
        if word.startswith("~"):
            settings.append(word)
        elif before in _VALUED or _is_option(word, before):
            flags.append(word)
        else:
            settings.append(_read(word, parser, one_job=one_job))
    return [*settings, *flags]


def for_help(words: Sequence[str]) -> list[list[str]]:
    """The command lines whose help is printed one after the other: one for each listed option of a group.

    Args:
        words: What `understood` returned.
    """
    if not any(word == "-h" or (len(word) > 2 and "--help".startswith(word)) for word in words):
        return [list(words)]
    settings = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
    parser, lists = OverridesParser.create(), {}
    for word in settings:
        choice = parser.parse_override(word)
        if choice.is_choice_sweep():
            values = [f"{choice.get_key_element()}={value}" for value in choice.sweep_string_iterator()]
            lists[word] = values if _is_group(word) else values[:1]  # a value has no page of its own
    lines = []
    for number in range(max(map(len, lists.values()), default=1)):
        line = list(words[len(settings) :])
        for word in reversed(settings):
            given = lists.get(word, [word])
            line[:0] = given[number : number + 1] if _is_group(word) else given[:1]
        lines.append(line)
    return lines


def _is_group(word: str) -> bool:
    return (conf_dir() / word.partition("=")[0]).is_dir()


def as_typed(override: str) -> str:
    """An override without the ``++`` that `understood` adds."""
    bare = override.removeprefix("++")
    return bare if _takes_more(bare.partition("=")[0]) else override


# Dictionaries in which the user chooses the keys; what is typed is merged into them, as in Hydra.
_OPEN = ("rows", "hparams_search.space")


def _takes_more(key: str) -> bool:
    """Whether a key need not exist yet: an argument of a class, or a key that the user chooses."""
    group, _, rest = key.partition(".")  # `targets` checks which arguments the class has
    return (bool(rest) and group in DESCRIBED) or any(f"{key}.".startswith(f"{name}.") for name in _OPEN)


def _is_option(word: str, before: str) -> bool:
    """Whether a word is an option of Hydra, perhaps abbreviated, or the topic after ``--info``."""
    name = word.partition("=")[0]
    if word.startswith("-") and not any(
        flag.startswith(name) for flag in (*_VALUED, *_OTHERS, "--experimental-rerun")
    ):
        bare = name.lstrip("-").replace("-", "_")
        if bare in _RECIPES:
            raise ConfigError(
                f"{name}: is not an option; choose a recipe with experiment=<name>; for your own, add "
                "--config-dir <folder that has experiment/<name>.yaml>"
            )
        raise ConfigError(
            f"{name}: is not an option; write settings without dashes: {ours(bare) or bare}="
            f"{word.partition('=')[2] or '...'}"
        )
    return word.startswith("-") or (before in ("--info", "-i") and "=" not in word)


def _read(word: str, parser: OverridesParser, *, one_job: bool) -> str:
    key, is_pair, value = word.partition("=")
    if not is_pair:
        raise ConfigError(f"{word}: must be a setting, key=value without spaces, got {word!r}")
    if _is_group(word) and value in ("null", "true", "false"):
        raise ConfigError(
            f"{key}: takes the name of one of its options, got {value}; allowed: {', '.join(options(key))}"
        )
    prefix = "++" if _takes_more(key) else ""
    if one_job and is_window(key) and re.fullmatch(r"\d+(,\d+)+", value, re.ASCII):  # not a sweep
        return f"{key}=[{value}]"
    return f"{prefix}{key}={_value(key.lstrip('+'), value, parser)}"


def _value(key: str, value: str, parser: OverridesParser) -> str:
    """The value, quoted if Hydra's grammar would reject it, or would read a path as something else."""
    as_path = is_path(key)
    if (plain := _plain(value, parser, as_path=as_path)) is not None:
        return plain
    is_list = value.startswith("[") and value.endswith("]")
    inside = value[1:-1] if is_list else value
    if (plain := _plain(_EQUATION.sub(_in_quotes, value), parser, as_path=as_path)) is not None:
        return plain
    is_nested = re.search(r"[\[\]{}'\"]", inside) if is_list else inside[:1] in ("[", "{") and not as_path
    if is_nested or (len(value) > 1 and value[0] == value[-1] and value[0] in "'\""):
        if value.startswith("[") and not value.endswith("]"):
            raise ConfigError(
                f"{key}: cannot read {value}, a list without its closing bracket; write lists "
                f"without spaces, as {key}=[a,b], or within quotes, as '{key}=[a, b]'; for a string that "
                f'begins with a bracket write "{key}={_quoted(value)}"'
            )
        within = ", put each string in it that contains a '=' in quotes" if "=" in inside else ""
        raise ConfigError(
            f"{key}: cannot read {value}; close its brackets and quotes{within}, or, if it is a string, "
            f'write "{key}={_quoted(value)}"'
        )
    parts = [part.strip() for part in inside.split(",")]
    parts = [_plain(part, parser, as_path=as_path) or _quoted(part) for part in parts]
    return f"[{','.join(parts)}]" if is_list else ",".join(parts)


# ``model=imdn`` in ``{A: [model=imdn]}``, which Hydra reads only in quotes.
_EQUATION = re.compile(r"(?<=[\[,])\s*([\w./+~-]+=[^\[\]{},'\"]+)(?=[\],])")


def _in_quotes(found: re.Match[str]) -> str:
    return _quoted(found[1])


def _plain(value: str, parser: OverridesParser, *, as_path: bool) -> str | None:
    """The value as Hydra reads it: unchanged, or quoted if a path looks like a number; else ``None``."""
    try:
        found = parser.parse_override(f"key={value}").value()
    except HydraException:
        return None
    is_quoted = value[:1] in ("'", '"') or "${" in value
    is_other = isinstance(found, (bool, int, float)) or (isinstance(found, str) and found != value)
    return _quoted(value) if as_path and is_other and not is_quoted else value


def _quoted(text: str) -> str:
    return QuotedString(text, Quote.single).with_quotes()
