"""Shell completion: what may follow the words of a command line, found without Hydra or torch.

    eval "$(sr-lab --shell-completion install=bash)"    in ~/.bashrc; install=zsh in ~/.zshrc, after compinit

Hydra's own script completes neither ``python -m sr_lab`` nor the options of a nested group
(``experiment=osffnet/table2_osff``), and takes half a second for each answer.
"""

import itertools
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sr_lab import files
from sr_lab.help import option, source

_FLAGS = ("--shell-completion", "-sc")
# Where `=` separates words, as it does by default, bash replaces only what follows the last `=`.
_BASH = """\
_sr_lab() {
    local line=${COMP_LINE:0:COMP_POINT} run=(sr-lab) word
    if [[ $line == *" -m sr_lab "* ]]; then
        run=("${COMP_WORDS[0]}" -m sr_lab)
        line="sr-lab ${line#* -m sr_lab }"
    elif [[ $1 != *sr-lab ]]; then
        return
    fi
    word=${line##* }
    COMPREPLY=($(COMP_LINE=$line "${run[@]}" --shell-completion query=bash 2>/dev/null))
    if [[ $COMP_WORDBREAKS == *=* && $word == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}")
    fi
}
complete -o nospace -o default -F _sr_lab sr-lab python python3
"""
_ZSH = """\
_sr_lab() {
    local line=$LBUFFER
    local -a run=(sr-lab) found
    if [[ $line == *" -m sr_lab "* ]]; then
        run=($words[1] -m sr_lab)
        line="sr-lab ${line#* -m sr_lab }"
    elif [[ $words[1] != *sr-lab ]]; then
        (( $+functions[_python] )) && _python || _files
        return
    fi
    found=(${(f)"$(COMP_LINE=$line $run --shell-completion query=zsh 2>/dev/null)"})
    if (( $#found )); then
        compadd -S '' -- $found
    else
        compset -P '*='
        _files
    fi
}
autoload -Uz _python
compdef _sr_lab sr-lab python python3
"""
_SCRIPTS = {
    "install=bash": _BASH,
    "install=zsh": _ZSH,
    "uninstall=bash": "complete -r sr-lab python python3; unset -f _sr_lab\n",
    "uninstall=zsh": "compdef -d sr-lab python python3; unfunction _sr_lab\n",
}


def answered() -> bool:
    """Print the answer if the command line asks for completion in bash or zsh; return whether it does."""
    if len(sys.argv) != 3 or sys.argv[1] not in _FLAGS:
        return False
    if script := _SCRIPTS.get(sys.argv[2]):
        sys.stdout.write(script)
    elif sys.argv[2] in ("query=bash", "query=zsh"):
        line = os.environ.get("COMP_LINE", "")
        words = line.split()[1:]
        word = "" if line[-1:].isspace() or not words else words.pop()
        sys.stdout.writelines(f"{found}\n" for found in candidates(words, word))
    else:
        return False
    return True


def candidates(words: Sequence[str], word: str) -> list[str]:
    """What the last word of a command line may become, sorted.

    Args:
        words: The words before it, without the name of the program.
        word: The typed part of the last word.
    """
    places = [files.conf_dir(), *_config_dirs(words)]
    groups = option.groups(places)
    options: dict[str, list[str]] = {}  # a nested group becomes part of the option's name
    for group, names in groups.items():
        top, _, inner = group.partition("/")
        options.setdefault(top, []).extend(f"{inner}/{name}" if inner else name for name in names)
    mark, bare = (word[0], word[1:]) if word[:1] in ("+", "~") else ("", word)
    key, is_value, value = bare.partition("=")
    if is_value:
        before = value[: value.rfind(",") + 1]  # -m takes a list
        found = [f"{key}={before}{name}" for name in options.get(key, [])]
    else:
        chosen = dict(each.lstrip("+").split("=", 1) for each in words if "=" in each)
        found = [f"{group}=" for group in options] + _settings(places, list(options), chosen, bare)
    # An untrusted file's name may contain characters that a shell would run or a terminal obey.
    plain = re.compile(r"[\w@/.,:=+-]+", re.ASCII)
    return sorted({f"{mark}{each}" for each in found if each.startswith(bare) and plain.fullmatch(each)})


def _config_dirs(words: Sequence[str]) -> list[Path]:
    """The folders of ``--config-dir``."""
    found = [Path(value) for flag, value in itertools.pairwise(words) if flag in ("--config-dir", "-cd")]
    found += [Path(word.partition("=")[2]) for word in words if word.startswith("--config-dir=")]
    return [place for place in found if place.is_dir()]


def _settings(
    places: Sequence[Path], groups: Sequence[str], chosen: Mapping[str, str], word: str
) -> list[str]:
    """The settings at the level of the word: ``dataset.`` gives those of the chosen data set."""
    above, _, _ = word.rpartition(".")
    root = files.read_yaml(files.conf_dir() / "config.yaml")
    tree: dict[str, object] = dict(root) if isinstance(root, dict) else {}
    listed = tree.pop("defaults", [])
    defaults = {
        str(group): str(name)
        for each in (listed if isinstance(listed, list) else [])
        if isinstance(each, dict)
        for group, name in each.items()
    }
    tree.pop("hydra", None)
    defaults |= _chosen_by(places, "experiment", chosen.get("experiment", ""))
    for group in groups:
        _add(tree, places, group, chosen.get(group, defaults.get(group, "")))
    node: object = tree
    for part in above.split(".") if above else ():
        node = node.get(part) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return []
    names = {str(key): "." if isinstance(value, dict) and value else "=" for key, value in node.items()}
    described = source.read(str(node.pop("_target_", "")))
    names |= {argument.name: "=" for argument in (described.arguments if described and above else ())}
    prefix = f"{above}." if above else ""
    return [f"{prefix}{name}{end}" for name, end in names.items() if not name.startswith("_")]


def _chosen_by(places: Sequence[Path], group: str, name: str) -> dict[str, str]:
    """The options of other groups that an option chooses."""
    found = option.find(places, group, name)
    if found is None:
        return {}
    chosen: dict[str, str] = {}
    for base in found.built_on:
        chosen |= _chosen_by(places, *_split(group, base))
    return chosen | {other: choice for other, choice, _ in found.chosen}


def _split(group: str, base: str) -> tuple[str, str]:
    """Group and option of an entry in ``defaults``; without a slash it is an option of the same group."""
    top, inside, rest = base.partition("/")
    return (top, rest) if inside else (group, base)


def _add(tree: dict[str, object], places: Sequence[Path], group: str, name: str) -> None:
    """Add the settings of an option, and of the options that it is built on."""
    found = option.find(places, group, name)
    if found is None:
        return
    for base in found.built_on:
        _add(tree, places, *_split(group, base))
    content = {key: value for key, value in found.values.items() if key not in ("defaults", "hydra")}
    _merge(tree, content if found.sets_everything else {group: content})


def _merge(tree: dict[str, object], more: Mapping[str, object]) -> None:
    for key, value in more.items():
        below = tree.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            _merge(below, value)
        else:
            tree[key] = value
