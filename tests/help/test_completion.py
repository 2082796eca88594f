"""Completion in bash and zsh."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from sr_lab.help.completion import candidates


def completed(line: str) -> list[str]:
    *words, word = line.split(" ")
    return candidates(words, word)


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("mod", ["model=", "model."]),
        ("model=osf", ["model=osffnet"]),
        ("experiment=osffnet/table2", ["experiment=osffnet/table2_osff"]),
        ("-m model=imdn,osf", ["model=imdn,osffnet"]),
        ("model=osffnet model.num_b", ["model.num_block="]),
        ("model=osffnet +model.num_b", ["+model.num_block="]),
        ("dataset=df2k dataset.hr", ["dataset.hr_dir="]),
        ("experiment=osffnet/table2_osff dataset.hr", ["dataset.hr_dir="]),
        ("task=evaluate ck", ["ckpt="]),
        ("validation.", ["validation.interval=", "validation.count=", "validation.sets="]),
        ("ckpt=", []),  # the shell then completes files
        ("nothing.like.this", []),
    ],
)
def test_a_word_becomes_options_and_settings(line, among):
    found = completed(line)
    assert set(among) <= set(found)
    assert all(each.startswith(line.split(" ")[-1]) for each in found)
    assert bool(among) == bool(found)


def test_settings_of_a_task_that_is_not_chosen_are_left_out():
    assert completed("ck") == []


def test_options_in_the_users_own_folder_are_offered(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: mypkg.Mine\n")
    assert completed(f"--config-dir {tmp_path} model=mi") == ["model=mine"]


def shell(script: str, folder, **variables: str) -> str:
    """What a shell prints; in it, ``sr-lab`` and ``python`` run this interpreter."""
    for name, begin in (("sr-lab", "-m sr_lab"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {begin} "$@"\n')
        (folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"} | variables
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("name", ["$(touch x)", "a;touch x", "a b", "a\nb", "`x`", "\x1b]0;evil", "a\u202eb"])
def test_a_name_that_a_shell_would_run_or_print_is_not_offered(tmp_path, name):
    (tmp_path / "model").mkdir()
    for each in (f"mine{name}", "mine"):
        (tmp_path / "model" / f"{each}.yaml").write_text("a: 1\n")
    (tmp_path / "model" / "mine.yaml").write_text(f"{json.dumps(name)}: 1\nok: 2\n")
    assert candidates([f"--config-dir={tmp_path}"], "model=mine") == ["model=mine"]
    assert candidates([f"--config-dir={tmp_path}", "model=mine"], "model.") == ["model.ok="]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("program", ["sr-lab", "python -m sr_lab"])
def test_bash_completes_with_the_installed_script(program, tmp_path):
    line = f"{program} model=osf"
    script = (
        'eval "$(sr-lab --shell-completion install=bash)"\n'
        f'COMP_LINE="{line}" COMP_POINT={len(line)} COMP_WORDS=({line}) COMP_WORDBREAKS=" ="\n'
        f'_sr_lab {program.split()[0]}; echo "${{COMPREPLY[@]}}"; complete -p sr-lab'
    )
    first, second = shell(script, tmp_path).splitlines()
    assert first == "osffnet"  # what replaces the word after the equals sign
    assert "_sr_lab" in second


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_another_python_command_keeps_its_completion(tmp_path):
    script = (
        'eval "$(sr-lab --shell-completion install=bash)"\n'
        'COMP_LINE="python mod" COMP_POINT=10 COMP_WORDS=(python mod)\n'
        '_sr_lab python; echo "${#COMPREPLY[@]}"'
    )
    assert shell(script, tmp_path) == "0\n"
