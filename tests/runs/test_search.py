"""Hyper-parameter search: the space, the study, trials that end early, and resuming."""

import contextlib
import csv
import json
import re
import shlex
import signal
import sqlite3
import sys
from pathlib import Path

import hydra
import optuna
import pytest
from hydra.core.hydra_config import HydraConfig

from sr_lab import __main__ as command_line
from sr_lab.config.compose import load
from sr_lab.config.identity import folder_name, identity, register_resolvers, run_identity
from sr_lab.errors import ConfigError
from sr_lab.files import conf_dir
from sr_lab.reporting.runs import find_runs
from sr_lab.run_folder import RunFolder
from sr_lab.runs import sweep
from sr_lab.runs.search import Range, read_space
from tests.command_line import SMOKE, sr_lab
from tests.composing import compose

# The space


@pytest.mark.parametrize(
    "option", sorted(path.stem for path in (conf_dir() / "hparams_search").glob("*.yaml"))
)
def test_every_option_of_a_search_describes_a_valid_space(option):
    config = compose(*SMOKE, f"hparams_search={option}")
    assert config.hparams_search is not None
    assert read_space(config.hparams_search.space)


def test_the_search_does_not_change_the_hash_of_its_training_runs():
    assert identity(compose(*SMOKE, "hparams_search=optuna")) == identity(compose(*SMOKE))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"low": 2, "high": 1}, "low must be below high, got low=2 and high=1"),
        ({"low": 1, "high": 1}, "low must be below high"),
        ({"low": 0, "high": 1, "log": True}, "with log, low must be above 0, got 0"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "takes log or step, got both"),
        ({"low": 32, "high": 64, "step": 7}, "step must divide .* from 32 to 64, got 7"),
        ({"low": 1, "high": 2, "step": 0}, "step must divide"),
        ({"low": 1}, "must be a range {low: a, high: b}, .*, got {'low': 1}"),
        ({"low": "a", "high": 1}, r"\.low: must be a number, got 'a'"),
        ({"low": True, "high": 2}, r"\.low: must be a number, got True"),
        ({"low": 0.0, "high": float("inf")}, r"\.high: must be a number, got inf"),
        ({"low": 1, "high": 2, "log": "yes"}, r"\.log: must be true or false, got 'yes'"),
        ({"low": 1, "hihg": 2}, r"must be a range {low: a, high: b}, .*, got {'low': 1, 'hihg': 2}"),
        (3, r"must be a range {low: a, high: b}, optionally with log or step, or choices \[a, b\], got 3"),
        ([1], "needs at least two choices, all different"),
        (["1", 1], "needs at least two choices, all different"),
    ],
)
def test_an_invalid_range_or_list_of_choices_is_refused(value, said):
    with pytest.raises(ConfigError, match=rf"^hparams_search\.space\.steps:? ?.*{said}"):
        read_space({"steps": value})


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("scale", "changes what val/psnr_y is measured on"),
        ("validation.count", "changes what val/psnr_y is measured on"),
        ("dataset", "changes what val/psnr_y is measured on"),
        ("allow", "is not a setting that a trial may change"),
        ("paths.output_dir", "is not a setting that a trial may change"),
        ("hydra.run.dir", "is not a setting that a trial may change"),
        ("trainer.profiler.dirpath", "is not a setting that a trial may change"),
        ("+model.num_feat", "is not a key"),
        ("steps", "is also set on the command line"),
    ],
)
def test_a_key_that_no_trial_may_set_is_refused(key, said):
    with pytest.raises(ConfigError, match=rf"^hparams_search\.space\.{re.escape(key)}: {said}"):
        read_space({key: [1, 2]}, ["+steps=3"])


def values(parameter: object) -> list[str]:
    """Twenty values of a parameter, in the syntax of the command line."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [parameter.suggest(study.ask(), "x") for _ in range(20)]  # type: ignore[attr-defined]


def test_a_range_keeps_its_bounds_type_and_steps():
    assert set(values(read_space({"x": {"low": 32, "high": 48, "step": 8}})["x"])) == {"32", "40", "48"}
    assert set(values(read_space({"x": {"low": 0.1, "high": 0.3, "step": 0.1}})["x"])) == {
        "0.1",
        "0.2",
        "0.3",
    }
    drawn = values(read_space({"x": {"low": 1e-4, "high": 1e-3, "log": True}})["x"])
    assert all(1e-4 <= float(value) <= 1e-3 and len(value) <= 9 for value in drawn)
    assert Range(0.0, 0.99999).text(0.999987) == "0.99999"  # four digits would round above the bound


def test_choices_are_written_in_the_syntax_of_the_command_line():
    space = read_space({"optimizer.betas": [[0.9, 0.99], [0.9, 0.999]], "ema_decay": [None, 0.999]})
    assert [parameter.ends for parameter in space.values()] == [
        ("[0.9,0.99]", "[0.9,0.999]"),
        ("null", "0.999"),
    ]
    compose(*SMOKE, f"++optimizer.betas={space['optimizer.betas'].ends[0]}", "++ema_decay=null")


# The search, with stand-ins for training runs: each validates twice, and a higher rate gives a higher PSNR

TRAINING = """
import json, os, pathlib, signal, statistics, sys, time, yaml
from sr_lab.run_folder import RunFolder

folder = RunFolder(pathlib.Path(sys.argv[1]))
parent = folder.path.parent
rate = yaml.safe_load(folder.config.read_text())["learning_rate"]

def validated(step, value):
    with folder.record.open("a") as file:
        file.write(f"{step},0.5,\\n{step},,{value}\\n")

with (parent / "begun").open("a") as file:
    print(folder.path.name, file=file)
with folder.attempt():
    folder.record.write_text("step,train/loss,val/psnr_y\\n")
    validated(3, 20 + 1000 * rate)
    if (mark := pathlib.Path("interrupt")).exists() and len((parent / "begun").read_text().splitlines()) == 2:
        mark.unlink()
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(60)
    done = [json.loads(path.read_text())["rate"] for path in parent.glob("*/metrics.json")]
    if "PRUNES" in os.environ and done and rate < statistics.median(done):
        time.sleep(60)  # until the search ends it
    if "FAILS" in os.environ and len(done) == 1:
        raise ValueError("diverged")
    validated(6, 21 + 1000 * rate)
    folder.write_metrics({"rate": rate})
"""


@pytest.fixture
def command(monkeypatch, capsys, program_in_this_process):
    """Run the command line in this process with the training runs above; return exit code and output."""
    monkeypatch.setattr(sweep, "command", lambda folder, _: [sys.executable, "-c", TRAINING, str(folder)])
    monkeypatch.delenv("SR_LAB_OUTPUT", raising=False)

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["sr_lab", *words])
        code = command_line.main()
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.fixture
def search(tmp_path, monkeypatch, command):
    """Run a search in a folder below ``tmp_path``; return exit code, output, trials and their folder."""

    def run(name: str, *overrides: str) -> tuple[int, str, list[dict[str, str]], Path]:
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        if "hparams_search.pruner=none" in overrides:
            monkeypatch.delenv("PRUNES", raising=False)
        else:
            monkeypatch.setenv("PRUNES", "1")
        if not any(override.startswith("~") for override in overrides):
            overrides = ("~hparams_search.space.loss", *overrides)  # composing one parameter is faster
        words = ("hparams_search=optuna", "hparams_search.startup_trials=1", *overrides)
        code, said = command(*SMOKE, "logger=none", *words)
        tables = list(tmp_path.glob(f"{name}/outputs/*/*_search-*/trials.csv"))
        trials = list(csv.DictReader(tables[0].read_text().splitlines())) if tables else []
        return code, said, trials, tables[0].parent if tables else tmp_path

    return run


def begun(folder: Path) -> list[str]:
    """The folder of each training run that started, in order."""
    return (folder / "begun").read_text().splitlines()


def test_a_search_finds_the_best_trial_and_ends_trials_that_fall_behind(search, command):
    code, said, trials, folder = search("a", "hparams_search.trials=4", "hparams_search.sampler=random")
    assert code == 0
    states = {float(trial["learning_rate"]): trial["state"] for trial in trials}
    assert set(states.values()) == {"finished", "pruned"}
    best = max(states)
    assert states[best] == "finished"
    (number,) = [trial["trial"] for trial in trials if float(trial["learning_rate"]) == best]
    assert f"best: trial {number}, val/psnr_y {21 + 1000 * best:.2f} dB" in said
    assert f"4 trials: {list(states.values()).count('finished')} finished, " in said
    (best_again,) = [line for line in said.splitlines() if line.startswith("python -m sr_lab")]
    assert f"++learning_rate={best}" in shlex.split(best_again)
    assert "hparams_search" not in best_again
    for trial in trials:
        run = RunFolder(folder / trial["run"])
        assert run.state() == trial["state"]
        assert f"learning_rate-{trial['learning_rate']}" in trial["run"]
        if trial["state"] == "pruned":
            assert trial["step"] == "3"
            assert re.fullmatch(r"val/psnr_y [\d.]+ dB at step 3 is behind other trials", sweep.reason(run))
    assert len(begun(folder)) == 4
    pruned = list(states.values()).count("pruned")
    assert f"4 jobs: {4 - pruned} finished, {pruned} pruned" in command("task=status", "runs=outputs")[1]


def test_an_interrupted_search_proposes_the_same_trials_and_repeats_no_finished_trial(search, tmp_path):
    words = ("hparams_search.trials=4",)
    _, _, undisturbed, _ = search("a", *words)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "interrupt").touch()
    code, said, trials, folder = search("b", *words)
    assert code == 130
    assert "interrupted; the same command resumes" in said
    assert [trial["state"] for trial in trials] == ["finished"]
    code, _, trials, _ = search("b", *words)
    assert code == 0
    assert trials == undisturbed
    starts = begun(folder)
    assert starts[1] == starts[2] == trials[1]["run"] or trials[1]["state"] == "pruned"
    assert all(starts.count(trial["run"]) == 1 for trial in trials if trial is not trials[1])


def test_more_trials_continue_the_same_study(search):
    _, _, first, folder = search("a", "hparams_search.trials=1")
    code, _, trials, same = search("a", "hparams_search.trials=2", "hparams_search.pruner=none")
    assert (code, same, trials[0], len(trials)) == (0, folder, first[0], 2)
    code, said, again, _ = search("a", "hparams_search.trials=2")
    assert (code, again, len(begun(folder))) == (0, trials, 2)
    assert "2 trials: 2 finished" in said
    if (files := Path("/proc/self/fd")).is_dir():
        assert not [file for file in files.iterdir() if file.resolve() == folder / "study.db"]


def test_a_search_on_other_images_than_those_of_its_trials_is_refused(search):
    _, _, (first,), folder = search("a", "hparams_search.trials=1")
    earlier = {"run": "", "training": "", "images": ["coffee.png 0123456789abcdef"]}
    (folder / first["run"] / "images.json").write_text(json.dumps(earlier))
    code, said, trials, _ = search("a", "hparams_search.trials=2")
    assert (code, trials) == (2, [first])
    assert "hparams_search: 5 training image(s) have changed (coffee.png, hubble_deep_field.jpg" in said
    assert f"since '{folder / first['run']}' was trained" in said


LOSS = """
from torch import nn

class MyLoss(nn.Module):
    def forward(self, sr, hr):
        return (sr - hr).abs().mean()
"""
CHOICES = (
    "{loss._target_: [myloss.MyLoss, torch.nn.MSELoss]}",
    "{loss: [{_target_: myloss.MyLoss}, {_target_: torch.nn.MSELoss}]}",
    "{loss: [mine, l1]}",
)


@pytest.fixture
def importable(tmp_path, monkeypatch) -> None:
    """Let modules in ``tmp_path`` be imported, even if an earlier test had modules of the same name."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "myloss", raising=False)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("space", CHOICES)
def test_a_search_belongs_to_the_code_of_everything_that_it_chooses_from(tmp_path, monkeypatch, space):
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "mine.yaml").write_text("_target_: myloss.MyLoss\n")
    given = (*SMOKE, "hparams_search=optuna", "~hparams_search.space", f"+hparams_search.space={space}")
    codes = []
    for power in ("abs()", "abs()", "square()"):
        (tmp_path / "myloss.py").write_text(LOSS.replace("abs()", power))
        register_resolvers()
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            words = [*given, "allow=[myloss]", f"hydra.searchpath=[file://{tmp_path}/conf]"]
            composed = hydra.compose("config", words, return_hydra_config=True)
            config = load(composed, (*words, f"run={len(codes)}"))
            monkeypatch.setattr(HydraConfig.instance(), "cfg", composed)
            codes.append(run_identity(config).code)
    assert codes[0] == codes[1] != codes[2]
    assert {name for name in codes[2] if codes[0].get(name) != codes[2][name]} == {"myloss"}


@pytest.mark.usefixtures("importable")
def test_a_module_that_a_search_may_not_name_is_not_imported(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('was imported')\n")
    space = "+hparams_search.space={loss._target_: [evil.Loss, torch.nn.MSELoss], optimizer: [no, such]}"
    config = compose(*SMOKE, "hparams_search=optuna", "~hparams_search.space", space)
    assert run_identity(config).code.keys() == run_identity(compose(*SMOKE)).code.keys()


@pytest.mark.usefixtures("importable")
def test_an_edited_loss_among_the_choices_starts_a_new_search(search, tmp_path):
    (tmp_path / "myloss.py").write_text(LOSS)
    words = ("~hparams_search.space", f"+hparams_search.space={CHOICES[0]}", "allow=[myloss]")
    code, said, _, folder = search("a", *words, "hparams_search.trials=1")
    assert code == 0, said
    (tmp_path / "myloss.py").write_text(LOSS.replace("abs()", "square()"))
    said = search("a", *words, "hparams_search.trials=2")[1]
    assert f"code: '{folder}' has the same settings" in said
    assert "begun with another version of myloss" in said
    assert len(list(folder.parent.glob("*_search-*"))) == 2


def test_a_failed_trial_is_reported_and_tried_again_on_request(search, monkeypatch):
    words = ("hparams_search.trials=2", "hparams_search.pruner=none")
    monkeypatch.setenv("FAILS", "1")
    code, said, trials, _ = search("a", *words)
    assert code == 0
    told = [(trial["state"], trial["problem"]) for trial in trials]
    assert told == [("finished", ""), ("failed", "ValueError: diverged")]
    assert "trial 1 failed: ValueError: diverged" in said
    monkeypatch.delenv("FAILS")
    for _ in range(2):
        code, _, again, folder = search("a", *words, "sweep.retry_failed=true")
        assert (code, again[:2], len(again)) == (0, trials, 3)
        assert (again[2]["state"], again[2]["run"]) == ("finished", trials[1]["run"])
        assert len(begun(folder)) == 3


def test_trials_with_the_same_values_share_one_run(search):
    words = ("~hparams_search.space.learning_rate", "hparams_search.trials=5", "sweep.jobs=2")
    code, _, trials, folder = search("a", *words)
    assert code == 0
    assert {trial["state"] for trial in trials} == {"finished"}
    assert len({trial["run"] for trial in trials}) == 2
    finished = [name for name in begun(folder) if (folder / name / "metrics.json").is_file()]
    assert len(set(finished)) == 2


# Messages of the command line


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder that the search named "a" will use."""
    parent = tmp_path / "a" / "outputs" / "train"
    name = folder_name(compose(*SMOKE, "hparams_search=optuna", "~hparams_search.space.loss"), parent)
    (parent / name).mkdir(parents=True)
    return parent / name


def test_a_second_process_in_the_same_search_is_refused(search, folder):
    with RunFolder(folder).holding("search"):
        code, said = search("a")[:2]
    assert code == 2
    assert "another process is running this search" in said


def test_a_broken_study_is_reported(search, folder):
    (folder / "study.db").write_bytes(b"no database" * 1000)
    code, said = search("a")[:2]
    assert code == 2
    assert re.search(r"study\.db' cannot be used .*; remove the file", said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("+hparams_search.space={model.num_feet: {low: 16, high: 32}}",),
            "hparams_search.space.model.num_feet: .*IMDN has no such setting; .*did you mean 'num_feat'?",
        ),
        (
            ("+hparams_search.space={upsampler: [native, dconv]}",),
            "no option 'dconv'; .*did you mean 'deconv'?",
        ),
        (("learning_rate=1e-3",), "hparams_search.space.learning_rate: .*set on the command line"),
        (("resume=never",), "resume: .*got never"),
    ],
)
def test_a_mistake_is_reported_before_the_first_trial_and_leaves_no_folder(search, tmp_path, words, said):
    code, told = search("a", *words)[:2]
    assert code == 2
    assert re.search(said, told)
    assert told.count("\n") == 1
    assert not list(tmp_path.glob("a/outputs/*/*"))


# A complete search

KILL = """
import os, pathlib, signal, time
import lightning

class Kill(lightning.Callback):
    # The first training run kills the search. Any other training run waits until the search prunes it.
    def on_train_batch_end(self, trainer, *_):
        mark, own = pathlib.Path("mark"), trainer.default_root_dir
        if trainer.global_step == 4 and not mark.exists():
            mark.write_text(own)
            search = os.getppid()
            os.kill(search, signal.SIGKILL)
            while os.getppid() == search:
                time.sleep(0.01)
        elif trainer.global_step == 4 and mark.read_text() != own:
            time.sleep(60)
"""


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    """The same command run twice: the first search is killed during its first trial, the second is not."""
    place = tmp_path_factory.mktemp("search")
    (place / "kill.py").write_text(KILL)
    command = (
        *(*SMOKE, "logger=none", "num_workers=0", "hparams_search=optuna", "hparams_search.trials=2"),
        *("hparams_search.startup_trials=1", "hparams_search.sampler=random", "~hparams_search.space.loss"),
        *("allow=[kill]", "+callbacks.kill._target_=kill.Kill", "seed=3"),
    )
    killed = sr_lab(place, *command)
    again = sr_lab(place, *command)
    (table,) = place.glob("outputs/train/*_search-*/trials.csv")
    trials = list(csv.DictReader(table.read_text().splitlines()))
    return {"killed": killed, "again": again, "trials": trials, "folder": table.parent}


@pytest.mark.slow
def test_a_killed_search_resumes_its_trial_and_prunes_the_next_trial(searches):
    assert searches["killed"].returncode == -signal.SIGKILL
    again = searches["again"]
    assert again.returncode == 0, again.stderr
    assert "resumes from" in again.stdout  # the first trial resumes
    assert [trial["state"] for trial in searches["trials"]] == ["finished", "pruned"]
    assert "2 trials: 1 finished, 1 pruned" in again.stdout
    assert "best: trial 0" in again.stdout


@pytest.mark.slow
def test_a_report_shows_a_pruned_trial(searches):
    problems = sorted(run.problem for run in find_runs(searches["folder"]))
    assert problems[0] == ""
    assert re.fullmatch(r"pruned: val/psnr_y [\d.]+ dB at step 3 is behind other trials", problems[1])


@pytest.mark.slow
def test_a_study_contains_only_strings_and_numbers(searches):
    """Otherwise Optuna would have to unpickle objects from an untrusted study."""
    with contextlib.closing(sqlite3.connect(searches["folder"] / "study.db")) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type='table'")]
        cells = []
        for rows in [database.execute(f"select * from {table}") for table in tables]:
            names = [column[0] for column in rows.description]
            cells += [cell for row in rows for cell in zip(names, row, strict=True)]
    assert {type(value) for _, value in cells} <= {int, float, str, type(None)}
    assert [json.loads(value) for name, value in cells if name.endswith("_json")]
