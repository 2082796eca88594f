"""Tests of the command line as a user sees it: the files on the disk and the output on the screen."""

import csv
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sr_lab.errors import ConfigError
from sr_lab.models.imdn import IMDN
from sr_lab.tasks import evaluate
from tests import tiny
from tests.command_line import SMOKE, run_folder, sr_lab
from tests.composing import compose

KILLABLE = (*SMOKE, "+callbacks.kill._target_=kill.AtStepFour", "allow=[kill]")
QUIET = (*KILLABLE, "logger=none", "num_workers=0")

# Kills the process after the fourth of six steps; the last checkpoint is from the third step. All runs have
# this callback, since it is part of their identity; an environment variable activates it.
KILL = """
import os, signal
import lightning

class AtStepFour(lightning.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 4 and "KILL" in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def metrics(folder: Path) -> dict[str, object]:
    return json.loads((folder / "metrics.json").read_text())


def figures(folder: Path) -> dict[str, object]:
    """The measured values in the results."""
    return {key: value for key, value in metrics(folder).items() if "/" in key or key == "images"}


def record(folder: Path) -> list[dict[str, str]]:
    """Rows of ``metrics.csv`` without the columns that depend on time."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("time", "samples_per_s", "data_wait")} for row in rows]


def checkpoint(folder: Path, name: str = "last") -> dict[str, object]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same_weights(one: Path, other: Path) -> None:
    """Assert that the weights and optimizer states of two runs are equal bit for bit."""
    for name in ("best", "last"):
        first, second = checkpoint(one, name), checkpoint(other, name)
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)
        assert first["global_step"] == second["global_step"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("end_to_end")
    for name in ("first", "again", "killed", "ema", "sweep"):
        (place / name).mkdir()
        (place / name / "kill.py").write_text(KILL)
    return place


@pytest.fixture(scope="module")
def trained(place):
    """Train a run with all features, a plain run of the same seed, and a run that is killed midway."""
    first = sr_lab(place / "first", *KILLABLE)
    again = sr_lab(place / "again", *QUIET)
    killed = sr_lab(place / "killed", *QUIET, KILL="1")
    assert first.returncode == 0, first.stderr
    assert again.returncode == 0, again.stderr
    assert killed.returncode == -9, killed.stderr
    return first


@pytest.fixture(scope="module")
def first(place, trained) -> Path:
    """Run folder of the run with all features."""
    return run_folder(place / "first")


@pytest.fixture(scope="module")
def afterwards(place, first):
    """Train a finished run again, evaluate its checkpoint, resume the killed run and write a report."""
    stamps = {path: path.stat().st_mtime_ns for path in first.rglob("*") if path.is_file()}
    evaluate = ("task=evaluate", "trainer=cpu", f"ckpt='{first}'")
    again, evaluated, named, resumed, reported = (
        sr_lab(place / name, *arguments)
        for name, arguments in (
            ("first", KILLABLE),
            ("evaluate", evaluate),
            ("evaluate", (*evaluate, "model=imdn")),
            ("killed", QUIET),
            ("first", ("task=report", "runs=outputs/train")),
        )
    )
    return {
        "again": again,
        "evaluated": evaluated,
        "named": named,
        "resumed": resumed,
        "reported": reported,
        "changed": [path for path in stamps if path.stat().st_mtime_ns != stamps[path]],
    }


def test_a_run_folder_is_complete(first):
    for name in (
        *("config.yaml", "metrics.json", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt"),
        *("images/sample_astronaut.png", "images/sample_chelsea.png"),
    ):
        assert (first / name).is_file(), name
    assert not (first / "failed.txt").exists()


def test_a_run_leaves_no_temporary_file(first):
    hidden = {path.name for path in first.rglob(".*") if "wandb" not in path.parts}
    assert hidden <= {".lock"}


def test_a_run_ends_with_a_table(trained):
    shown = trained.stdout
    assert "6 steps, batch 2, budget smoke (steps 1,000,000 -> 6, batch size 16 -> 2, " in shown
    assert "); budget=paper keeps the recipe" in shown
    for text in ("protocol: rgb_uint8", "budget: smoke", "bicubic", "imdn_x4", "16.6", "29.16"):
        assert text in shown


def test_a_run_that_writes_to_a_pipe_is_quiet(trained):
    assert trained.stderr == ""
    assert "\x1b" not in trained.stdout
    assert "Tip" not in trained.stdout


def test_results_record_where_they_come_from(first):
    values = metrics(first)
    expected = {"task": "train", "model": "IMDN", "upsampler": "native", "scale": 4, "seed": 0, "steps": 6}
    assert {key: values[key] for key in expected} == expected
    assert values["precision"] == "32-true"
    assert values["hash"] == first.name.rpartition("-")[2]
    assert (values["num_params"], values["budget"]) == (16_565, "smoke")
    assert values["versions"]["torch"] == importlib.metadata.version("torch")
    assert values["wall_time_s"] > 0


def test_results_contain_each_set_and_each_image_with_its_bicubic_values(first):
    values = metrics(first)
    assert [image["image"] for image in values["images"]] == ["astronaut", "chelsea"]
    for metric in ("psnr_y", "ssim_y"):
        for row in ("test", "bicubic"):
            prefix = "" if row == "test" else "bicubic_"
            mean = sum(image[f"{prefix}{metric}"] for image in values["images"]) / 2
            assert values[f"{row}/sample/{metric}"] == pytest.approx(mean, abs=1e-12)


def test_the_best_checkpoint_opens_without_running_code(first):
    stored = checkpoint(first, "best")["sr_lab"]
    assert stored["model"]["_target_"] == "sr_lab.models.imdn.IMDN"
    assert stored["scale"] == 4


def test_the_record_contains_the_steps_and_the_validations(first):
    rows = record(first)
    assert [row["step"] for row in rows if row["train/loss"]] == ["1", "2", "3", "4", "5", "6"]
    assert [row["step"] for row in rows if row["val/psnr_y"]] == ["3", "6"]


def test_the_best_checkpoint_has_the_highest_validation_psnr(first):
    best = max((row for row in record(first) if row["val/psnr_y"]), key=lambda row: float(row["val/psnr_y"]))
    assert checkpoint(first, "best")["global_step"] == int(best["step"])


def test_a_finished_run_is_not_trained_again(afterwards):
    assert afterwards["again"].returncode == 0
    assert "already finished" in afterwards["again"].stdout
    assert afterwards["changed"] == []


def test_evaluating_a_run_reproduces_its_figures_exactly(place, first, afterwards):
    assert afterwards["evaluated"].returncode == 0, afterwards["evaluated"].stderr
    assert figures(run_folder(place / "evaluate")) == figures(first)


def test_naming_a_network_with_an_sr_lab_checkpoint_is_refused(afterwards):
    refused = afterwards["named"]
    assert refused.returncode == 2
    assert "model=imdn" in refused.stderr
    assert "already records its network (IMDN x4); drop the override" in refused.stderr


def test_a_report_writes_the_table_next_to_the_runs(place, afterwards):
    assert afterwards["reported"].returncode == 0, afterwards["reported"].stderr
    assert "imdn_x4" in afterwards["reported"].stdout
    assert "| bicubic | x4 |" in (place / "first" / "outputs" / "train" / "table.md").read_text()
    (row,) = csv.DictReader((place / "first" / "outputs" / "train" / "runs.csv").read_text().splitlines())
    assert float(row["bicubic/sample/psnr_y"]) == pytest.approx(29.1558, abs=1e-4)


def test_two_runs_with_the_same_seed_are_equal_bit_for_bit(place, first):
    again = run_folder(place / "again")
    assert_same_weights(first, again)
    assert figures(again) == figures(first)
    assert record(again) == record(first)


def test_the_same_run_has_the_same_folder_name_anywhere(place, first):
    assert run_folder(place / "again").name == first.name == run_folder(place / "killed").name


def test_a_resumed_run_ends_like_the_uninterrupted_run(place, first, afterwards):
    assert afterwards["resumed"].returncode == 0, afterwards["resumed"].stderr
    assert "resumes from" in afterwards["resumed"].stdout
    killed = run_folder(place / "killed")
    assert_same_weights(killed, first)
    assert figures(killed) == figures(first)
    assert record(killed) == record(first)


def test_the_dashboard_has_the_results_in_its_summary(first):
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(first / "wandb")],
        check=True,
        capture_output=True,
        text=True,
    )
    offline = json.loads(done.stdout)
    expected = {key: value for key, value in metrics(first).items() if key != "images"}
    told = {key: offline["summary"].get(key) for key in expected}
    assert told == expected
    assert (offline["state"], offline["run_id"]) == ("finished", first.name)
    assert {"val/psnr_y", "train/loss", "learning_rate"} <= set(offline["summary"])
    assert offline["config"]["model"]["num_feat"] == 16
    assert any(key.startswith("examples/sample") for key in offline["summary"])


@pytest.fixture(scope="module")
def averaged(place):
    """A run with averaged weights, and the evaluation of its checkpoint."""
    trained = sr_lab(place / "ema", *QUIET, "ema_decay=0.5")
    assert trained.returncode == 0, trained.stderr
    evaluated = sr_lab(
        place / "ema_evaluate", "task=evaluate", "trainer=cpu", f"ckpt='{run_folder(place / 'ema')}'"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    return run_folder(place / "ema"), run_folder(place / "ema_evaluate")


def test_averaged_weights_are_tested_and_saved(averaged, first):
    trained, evaluated = averaged
    assert figures(evaluated) == figures(trained)
    assert figures(trained) != figures(first)


@pytest.fixture(scope="module")
def sweep(place):
    """Two jobs, the first of which cannot be built: 8 channels are too few for IMDN's attention."""
    arguments = [word for word in QUIET if "num_feat" not in word]
    return sr_lab(place / "sweep", "-m", *arguments, "+model.num_feat=8,16")


def test_a_sweep_continues_after_a_failure_and_exits_with_an_error(place, sweep):
    assert sweep.returncode == 1
    outputs = place / "sweep" / "outputs" / "train"
    (failed,) = outputs.glob("*/failed.txt")
    (finished,) = outputs.glob("*/metrics.json")
    assert "num_feat-8" in failed.parent.name
    assert "num_feat-16" in finished.parent.name


def test_a_sweep_names_the_failure_and_the_file_with_its_traceback(sweep):
    (line,) = [line for line in sweep.stdout.splitlines() if line.startswith("failed: ")]
    assert "CCA: num_feat=8 leaves no channel" in line
    assert "failed.txt" in line


def test_a_sweep_ends_with_one_table_of_all_jobs(sweep):
    table = sweep.stdout[sweep.stdout.index("budget: smoke") :]
    assert re.findall(r"│ (num_feat \S+)", table) == ["num_feat 8", "num_feat 16"]
    assert len(re.findall(r"│ bicubic", table)) == 1


def test_a_sweep_prints_no_list_of_jobs_of_hydra(sweep):
    assert "#1" not in sweep.stdout + sweep.stderr


def test_a_job_in_a_sweep_gives_the_same_run_as_the_single_command(place, first, sweep):
    (finished,) = (place / "sweep" / "outputs" / "train").glob("*/metrics.json")
    assert finished.parent.name.rpartition("-")[2] == first.name.rpartition("-")[2]
    assert figures(finished.parent) == figures(first)


# A mistake found while composing, one found while building, and one found by another task; tests/config has
# many more mistakes.
MISTAKES = {
    "option": (
        ("model=imnd",),
        r"model: there is no option 'imnd'; allowed: a2f, .*; did you mean 'imdn'\?",
    ),
    "network": (("+model.distillation_rate=1.5", "logger=none"), r"IMD.*distillation_rate"),
    "report": (("task=report", "runs=nowhere"), r"runs: no run folder in 'nowhere'"),
}


@pytest.fixture(scope="module")
def mistakes(place):
    return {
        name: sr_lab(place / "mistakes", *(SMOKE if name != "report" else ()), *overrides)
        for name, (overrides, _) in MISTAKES.items()
    }


@pytest.mark.parametrize("name", MISTAKES)
def test_a_user_error_ends_with_one_line_and_exit_code_2(mistakes, name):
    done = mistakes[name]
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(f"error: {MISTAKES[name][1]}.*", line)


def test_a_network_with_weights_is_not_measured_without_a_checkpoint(tmp_path):
    config = compose("task=evaluate", "trainer=cpu", "model=imdn")
    with pytest.raises(ConfigError, match="ckpt: IMDN has weights, but no checkpoint is given; set ckpt="):
        evaluate.run(config, tmp_path, [])


class OnePair(tiny.Patches):
    """A dataset that repeats the same pair."""

    def __init__(self, images: tiny.Images) -> None:
        super().__init__()
        self.item = images[0]

    def __getitems__(self, samples) -> dict[str, Tensor]:
        lr = (self.item["lr"][None] * 255).round().byte()
        return {"lr": lr, "hr": self.item["hr"][None], "name": ["a"], "dihedral": torch.zeros(1).byte()}


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
@pytest.mark.filterwarnings(r"ignore:.*does not have many workers")
def test_twenty_steps_on_one_pair_beat_bicubic(tmp_path):
    images = tiny.Images("A", 1, height=48, width=48)
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    squares = ((rows // 7 + columns // 5) % 2 * 153 + 51).byte()
    images.hr = [torch.stack([squares, squares.flip(0), squares.flip(1)])]
    torch.manual_seed(0)
    module = tiny.sr_module(
        network=IMDN(scale=2, num_feat=16, num_block=1, image_skip=True),
        test=[images],
        make_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=5e-3),
    )
    trainer = tiny.trainer(tmp_path, max_steps=20, limit_val_batches=0)
    data = tiny.data(train=OnePair(images), batch_size=1, test=[images])
    trainer.fit(module, data)
    trainer.test(module, datamodule=data, verbose=False)
    (result,) = module.results
    assert result.psnr_y > result.bicubic_psnr_y + 0.3


def test_what_a_library_prints_about_garbage_at_exit_is_not_shown():
    """Triton lists what gc.freeze() has kept alive; an earlier handler replaces Triton's here."""
    program = (
        "import atexit, os, sys; atexit.register(os.write, 2, b'leaked 514 functions');"
        "from sr_lab.__main__ import _end_at_once; atexit.register(_end_at_once);"
        "print('error: ours', file=sys.stderr); sys.exit(2)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: ours\n")
