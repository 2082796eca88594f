"""Rows, the queue and its states; most tests of the queue use jobs that are one line of Python."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from sr_lab import files
from sr_lab.config.compose import to_yaml
from sr_lab.config.schema import TrainConfig
from sr_lab.errors import ConfigError
from sr_lab.run_folder import Listed, RunFolder, read_index, write_index
from sr_lab.runs import measurement, sweep
from tests.command_line import sr_lab
from tests.composing import compose

TABLE = """# @package _global_
defaults:
  - override /model: imdn
experiment_name: mine/table
table: {paper: osffnet, name: table2}
rows:
  "000": [+model.num_feat=16, +model.num_block=1]
  w/o attention: [model=osffnet, upsampler=deconv]
  faster: [learning_rate=1e-3, +model.num_feat=16, +model.num_block=1]
  empty: []
hydra:
  mode: MULTIRUN
  sweeper: {params: {row: "${rows:}", scale: "4"}}
"""


def write_experiment(folder: Path, text: str) -> str:
    """Write an experiment file to a search path; return the Hydra option that finds it."""
    (folder / "experiment" / "mine").mkdir(parents=True)
    (folder / "experiment" / "mine" / "table.yaml").write_text(text)
    return f"hydra.searchpath=[file://{folder}]"


def test_a_job_gets_only_the_paths_that_were_typed():
    """A job reads its settings from a file, in which paths must not lead out of the run folder."""
    typed = [
        "+callbacks.mine.dirpath=/big/disk",
        "++logger.wandb.entity=us",
        "trainer.profiler.dirpath=/tmp/x",
    ]
    rest = ["model=imdn", "callbacks=none", "~callbacks.other", "~logger.wandb.tags", "trainer.devices=1"]
    command = sweep.command(Path("/runs/a"), [*typed, *rest])
    assert [word for word in command if word.startswith(("++", "~"))] == [
        *("++callbacks.mine.dirpath=/big/disk", "++logger.wandb.entity=us"),
        "++trainer.profiler.dirpath=/tmp/x",
    ]


@pytest.fixture(scope="module")
def search_path(tmp_path_factory) -> str:
    return write_experiment(tmp_path_factory.mktemp("rows"), TABLE)


@pytest.fixture
def row(search_path):
    """Compose the row at a position as the command line does."""

    def composed(position: object, *overrides: str) -> TrainConfig:
        words = (search_path, "experiment=mine/table", "trainer=cpu", "budget=short", f"row={position}")
        return compose(*words, *overrides)

    return composed


# Rows


def test_a_row_is_composed_with_its_overrides(row):
    first, second, third = row(0), row(1), row(2)
    assert (first.model["num_feat"], first.learning_rate) == (16, 2e-4)
    assert second.model["_target_"] == "sr_lab.models.osffnet.OSFFNet"
    assert second.upsampler.name == "deconv"
    assert third.learning_rate == 1e-3


def test_an_empty_row_equals_the_recipe(row):
    config = row(3)
    assert (config.model["_target_"], config.row_label) == ("sr_lab.models.imdn.IMDN", "empty")
    assert "num_feat" not in config.model


def test_a_job_is_named_after_its_row(row):
    names = [row(position).run_name for position in range(4)]
    assert names == [
        *(
            "imdn_x4_000_short",
            "osffnet_x4_w-o-attention_short",
            "imdn_x4_faster_short",
            "imdn_x4_empty_short",
        )
    ]
    assert row(0, "seed=1").run_name == "imdn_x4_000_short_seed-1"


def test_a_job_knows_its_row_and_no_longer_needs_the_list_of_rows(row):
    from omegaconf import OmegaConf

    config = row(1)
    assert (config.row, config.rows, config.row_label) == (None, {}, "w/o attention")
    assert config.table is not None
    assert (config.table.paper, config.table.name) == ("osffnet", "table2")
    written = OmegaConf.create(to_yaml(config))
    from sr_lab.config.compose import load

    assert load(written) == config


def test_the_command_line_overrides_a_row(row):
    assert row(0, "+model.num_feat=32").model["num_feat"] == 32


@pytest.mark.parametrize("position", [-1, 4, "x"])
def test_an_unknown_row_is_reported(row, position):
    with pytest.raises(ConfigError, match=r"row: must be a position in rows, got .*; allowed: 0 \(000\), 1"):
        row(position)


def test_choosing_a_row_where_there_are_none_is_reported():
    with pytest.raises(ConfigError, match="row: got 1, but there are no rows"):
        compose("trainer=cpu", "budget=smoke", "row=1")


def test_a_mistake_in_a_row_names_the_row():
    with pytest.raises(ConfigError, match=r"rows\.a: model\.typo: there is no such setting in 'model'"):
        compose("trainer=cpu", "budget=smoke", "row=0", "+rows={a: ['model.typo=1']}")


@pytest.mark.parametrize(
    "override", ["allow=[evil]", "hydra.callbacks={}", "+hydra/launcher=x", "row=1", "+experiment=demo", 3]
)
def test_a_row_may_not_choose_rows_or_change_what_is_trusted(override):
    with pytest.raises(ConfigError, match="is not a setting that a row may change"):
        compose("trainer=cpu", "budget=smoke", "row=0", f"+rows={{a: [{json.dumps(override)}]}}")


# The queue, with jobs that are one line of Python each

WAITS = "import time; time.sleep(60)"
FINISHES = "import pathlib, sys; pathlib.Path(sys.argv[1], 'metrics.json').write_text('{}')"


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return compose("trainer=cpu", "budget=smoke", "model=imdn")


@pytest.fixture
def queue(tmp_path, config, monkeypatch):
    """Run a sweep in ``tmp_path``; its jobs are scripts that get their folder as an argument."""

    def run(scripts: dict[str, str], *, accelerator: str = "cpu", **settings: object) -> int:
        for name in scripts:
            (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.setattr(
            sweep, "command", lambda folder, _: [sys.executable, "-c", scripts[folder.name], str(folder)]
        )
        given = config.model_copy(
            update={
                "sweep": config.sweep.model_copy(update={"jobs": 2} | settings),
                "trainer": config.trainer.model_copy(update={"accelerator": accelerator}),
            }
        )
        return sweep.run([sweep.enqueue(given, tmp_path / name, ()) for name in scripts])

    return run


def test_no_more_jobs_than_slots_run_at_a_time(queue, tmp_path):
    counts = (
        "import pathlib, sys, time; f = pathlib.Path(sys.argv[1]); m = f.parent / f'at-{f.name}'; m.touch();"
        "time.sleep(.4); print(len(list(f.parent.glob('at-*'))), flush=True); time.sleep(.2); m.unlink();"
    )
    assert queue(dict.fromkeys("abcde", counts + FINISHES)) == 0
    assert max(int((tmp_path / name / "log.txt").read_text()) for name in "abcde") == 2


def test_a_sweep_ends_by_naming_what_its_jobs_were_not_measured_on(queue, monkeypatch, capsys):
    """Two jobs that differ in the benchmark are one training run, measured on only one of the two."""
    monkeypatch.setattr(
        measurement, "not_measured", lambda *_: "benchmark: this run was not measured on Set14"
    )
    assert queue({"a": FINISHES}) == 0
    assert capsys.readouterr().out.count("not measured on Set14") == 1


def test_a_killed_job_does_not_affect_other_jobs_and_its_signal_is_reported(queue, tmp_path, capsys):
    killed = "import os; os.kill(os.getpid(), 9)"
    assert queue({"a": killed, "b": "print('no room'); raise SystemExit(7)", "c": FINISHES}) == 1
    said = capsys.readouterr().out
    assert "interrupted: a: killed by signal 9 (out of memory?); the same command resumes it" in said
    assert "interrupted: b: ended with exit code 7: no room" in said
    assert "[3/3] c: finished in" in said


def test_processes_that_a_killed_job_leaves_behind_are_terminated(queue, tmp_path):
    worker = f"subprocess.Popen([sys.executable, '-c', '{WAITS}']).pid"
    leaves = f"import os, subprocess, sys; print({worker}, flush=True); os.kill(os.getpid(), 9)"
    queue({"a": leaves})
    assert not alive(int((tmp_path / "a" / "log.txt").read_text()))


def alive(process: int) -> bool:
    """Whether a process runs; a zombie does not count."""
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_sweep_terminates_its_jobs(queue, tmp_path, jobs):
    notes = "import os, pathlib, sys; pathlib.Path(sys.argv[1], 'pid').write_text(str(os.getpid()));"

    def interrupt() -> None:
        while len(list(tmp_path.glob("*/pid"))) < jobs:
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        queue(dict.fromkeys("abc", notes + WAITS), jobs=jobs)
    begun = [int(path.read_text()) for path in tmp_path.glob("*/pid")]
    assert len(begun) == jobs
    assert not any(map(alive, begun))


def test_a_job_hears_the_sweep_that_stops_it_even_if_the_sweep_itself_ignores_ctrl_c(queue):
    """A script's background processes ignore Ctrl-C; the sweep stops its jobs with the same signal."""
    hears = "import signal; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler;"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert queue({"a": hears + FINISHES}) == 0
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_job_that_cannot_start_counts_as_failed_and_is_tried_again(queue, tmp_path, capsys, jobs):
    wants = (
        "import pathlib, sys; from sr_lab import __main__ as m; from sr_lab.errors import DataError\n"
        "f = pathlib.Path(sys.argv[1])\n"
        "def job(command):\n"
        "    if not (f.parent / 'images').exists(): raise DataError('dataset: there are no images')\n"
        "    (f / 'metrics.json').write_text('{}')\n"
        "m.CommandLine.compose_and_run = job; sys.exit(m.main())\n"
    )
    assert queue({"a": wants}, jobs=jobs) == 1
    said = capsys.readouterr().out
    assert "failed: a: dataset: there are no images (the same command tries again)" in said
    assert "interrupted" not in said
    folder = RunFolder(tmp_path / "a")
    assert (folder.state(), sweep.reason(folder)) == ("failed", "dataset: there are no images")
    (tmp_path / "images").touch()
    assert queue({"a": wants}, jobs=jobs) == 0
    assert folder.state() == "finished"
    assert not folder.failed.exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_job_that_ended_because_of_a_machine_fault_is_resumed(queue, tmp_path, capsys, jobs):
    wants = (
        "import pathlib, sys; from sr_lab import __main__ as m; from sr_lab.errors import FaultError\n"
        "from sr_lab.run_folder import RunFolder; f = RunFolder(pathlib.Path(sys.argv[1]))\n"
        "def job(command):\n"
        "    with f.attempt():\n"
        "        if not (f.path.parent / 'space').exists(): raise FaultError('training: the disk is full')\n"
        "        f.write_metrics({})\n"
        "m.CommandLine.compose_and_run = job; sys.exit(m.main())\n"
    )
    assert queue({"a": wants}, jobs=jobs) == 1
    why = ": error: training: the disk is full" if jobs > 1 else ""
    said = capsys.readouterr().out
    assert f"interrupted: a: ended with exit code 2{why}; the same command resumes it" in said
    assert RunFolder(tmp_path / "a").state() == "interrupted"
    (tmp_path / "space").touch()
    assert queue({"a": wants}, jobs=jobs) == 0
    assert RunFolder(tmp_path / "a").state() == "finished"


def test_a_refusal_does_not_replace_the_failure_reason_of_an_attempt(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="too big"), folder.attempt():  # noqa: PT012 - the attempt refuses first
        folder.refuse("another process is at work")
        raise ValueError("too big")
    folder.refuse("something else")
    assert sweep.reason(folder) == "ValueError: too big"
    assert not folder.refused


def test_a_sweep_waits_for_a_job_that_another_process_runs(queue, tmp_path, capsys):
    hold = (
        "import pathlib, sys, time; from sr_lab.run_folder import RunFolder; f = pathlib.Path(sys.argv[1])\n"
        "with RunFolder(f).attempt():\n"
        "    print('at work', flush=True); time.sleep(3); RunFolder(f).write_metrics({})\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "at work\n"
        assert queue({"a": "raise SystemExit('started twice')", "b": FINISHES}) == 0
    said = capsys.readouterr().out
    assert "[1/2] a: another process is running it" in said
    assert "[1/2] a: already finished" in said


def test_a_job_that_another_sweep_has_just_finished_counts_as_finished(queue, tmp_path, capsys):
    """The job found the folder locked, and the other sweep finished the job before this sweep looked."""
    assert queue({"a": f"{FINISHES}; raise SystemExit(2)", "b": FINISHES}) == 0
    said = capsys.readouterr().out
    assert "[1/2] a: already finished" in said
    assert "interrupted" not in said


@pytest.mark.parametrize(("gpus", "shares"), [("0,1,2,3", ["0,2", "1,3"]), ("5,7", ["5", "7"])])
def test_each_slot_has_its_own_gpus(queue, tmp_path, monkeypatch, gpus, shares):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    says = (
        "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(.5);" + FINISHES
    )
    queue({"a": says, "b": says}, accelerator="auto")
    assert [(tmp_path / name / "log.txt").read_text().strip() for name in "ab"] == shares


LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-11aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-22bb)
  MIG 3g.20gb     Device  1: (UUID: MIG-33cc)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-44dd)
"""


def test_each_slice_of_a_divided_gpu_is_assigned_separately(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    driver = tmp_path / "nvidia-smi"
    driver.write_text(f'#!/bin/sh\n[ "$*" = -L ] && cat <<E\n{LISTED}E\n')
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert sweep._gpus() == ["MIG-22bb", "MIG-33cc", "GPU-44dd"]


def test_all_slots_share_a_single_gpu(queue, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    says = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True);" + FINISHES
    queue({"a": says, "b": says}, accelerator="auto")
    assert [(tmp_path / name / "log.txt").read_text().strip() for name in "ab"] == ["3", "3"]


def test_the_index_keeps_jobs_of_earlier_sweeps_whose_folders_exist(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    old = [Listed("a", "one", ["row=0"]), Listed("gone", None, [])]
    write_index(tmp_path, old)
    write_index(tmp_path, [Listed("b", "two", ["row=1"])])
    assert read_index(tmp_path) == [old[0], Listed("b", "two", ["row=1"])]


def test_sweeps_that_start_at_the_same_time_lose_no_job_of_the_index(tmp_path, monkeypatch):
    written = files.write
    monkeypatch.setattr(files, "write", lambda *content: (time.sleep(0.02), written(*content)))
    for number in range(8):
        (tmp_path / str(number)).mkdir()
    threads = [
        threading.Thread(target=write_index, args=(tmp_path, [Listed(str(number), None, [])]))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job.folder for job in read_index(tmp_path)) == [str(number) for number in range(8)]


def test_a_link_in_place_of_the_lock_of_the_index_is_not_followed(tmp_path):
    (tmp_path / ".sweep.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        write_index(tmp_path, [])
    assert not (tmp_path / "elsewhere").exists()


def test_a_broken_index_is_reported(tmp_path):
    (tmp_path / "sweep.json").write_text("[")
    with pytest.raises(ConfigError, match=r"sweep.json: cannot be read .*; remove it"):
        read_index(tmp_path)


# States


@pytest.fixture
def states(tmp_path) -> Path:
    """A folder with a run in each state except ``running``."""
    for name in ("finished", "failed", "interrupted", "waiting"):
        folder = RunFolder(tmp_path / name)
        folder.write_config("steps: 6\n")
        if name == "finished":
            with folder.attempt():
                folder.write_metrics({})
        if name == "failed":
            with pytest.raises(ValueError, match="too big"), folder.attempt():
                raise ValueError("too big")
        if name == "interrupted":
            with pytest.raises(KeyboardInterrupt), folder.attempt():
                raise KeyboardInterrupt
            folder.record.write_text("step,train/loss,val/psnr_y\n3,0.5,\n3,,21.25\n4,0.25,\n")
    write_index(tmp_path, [Listed("waiting", "w/o", []), Listed("failed", None, [])])
    return tmp_path


@pytest.mark.parametrize("name", ["finished", "failed", "interrupted", "waiting"])
def test_the_state_of_a_run_is_read_from_its_folder(states, name):
    assert RunFolder(states / name).state() == name


def test_a_run_with_a_held_lock_is_running(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.attempt():
        assert folder.state() == "running"
        assert time.time() - folder.since() < 60
    assert folder.state() == "interrupted"


def test_status_lists_every_job(states):
    with RunFolder(states / "busy").attempt():
        (states / "busy" / "config.yaml").write_text("steps: 9\n")
        done = sr_lab(states, "task=status", f"runs='{states}'", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    rows = {row[0]: row[1:] for row in cells if len(row) == 6}
    assert list(rows) == [
        "waiting",
        "failed",
        "busy",
        "finished",
        "interrupted",
    ]  # jobs of the sweep come first, in their order
    assert rows["waiting"] == ["w/o", "waiting", "", "", ""]
    assert (rows["failed"][1], rows["failed"][4]) == ("failed", "ValueError: too big")
    assert rows["busy"][1:3] == ["running", "0/9"]
    assert re.fullmatch(r"\d+ s ago", rows["busy"][3])
    assert rows["interrupted"][1:3] == ["interrupted", "4/6"]
    assert rows["interrupted"][4] == "loss 0.25, val PSNR 21.25"
    assert "5 jobs: 1 finished, 1 running, 1 failed, 1 interrupted, 1 waiting" in done.stdout


def test_a_status_without_any_job_is_reported(tmp_path):
    done = sr_lab(tmp_path, "task=status", "runs=nowhere")
    assert (done.returncode, done.stderr[:40]) == (2, "error: runs: no run folder in 'nowhere'; "[:40])


def test_the_status_does_not_import_torch(tmp_path):
    RunFolder(tmp_path / "a").write_config("steps: 6\n")
    command = [sys.executable, "-X", "importtime", "-m", "sr_lab", "task=status", f"runs='{tmp_path}'"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "1 job: 1 waiting" in done.stdout
    assert not re.search(r"\| +(torch|lightning|wandb)$", done.stderr, re.MULTILINE)


AXIS = """# @package _global_
defaults:
  - override /model: imdn
experiment_name: mine/table
hydra:
  mode: MULTIRUN
  sweeper: {params: {steps: "500,600", batch_size: "8", scale: "4"}}
"""


@pytest.mark.parametrize(
    ("job", "typed", "steps", "batch_size"),
    [
        (("steps=500", "batch_size=8"), (), 6, 2),  # the axes of the file
        (("steps=400", "batch_size=8"), ("steps=400",), 400, 2),
        (("steps=600", "batch_size=8"), ("steps=600",), 600, 2),
        (("steps=400", "batch_size=9"), (), 400, 9),  # typed, in a process of another launcher
        (("hydra.sweeper.params.steps='500'", "steps=500"), ("hydra.sweeper.params.steps=500",), 500, 2),
    ],
)
def test_a_budget_applies_to_the_axes_of_a_file_but_not_to_what_was_typed(
    tmp_path, monkeypatch, job, typed, steps, batch_size
):
    place = write_experiment(tmp_path, AXIS)
    monkeypatch.setattr(sys, "argv", ["sr_lab", "experiment=mine/table", *typed])
    config = compose(place, "experiment=mine/table", "trainer=cpu", "budget=smoke", *job)
    assert (config.steps, config.batch_size) == (steps, batch_size)


@pytest.mark.parametrize("typed", ["rows.typed=['steps=500']", "rows={typed: ['steps=500']}"])
def test_a_typed_row_wins_over_the_budget_and_the_rows_of_the_file_do_not(tmp_path, typed):
    rows = TABLE.replace("empty: []", "long: [steps=500]\n  typed: []")
    words = (write_experiment(tmp_path, rows), "experiment=mine/table", "trainer=cpu", "budget=smoke", typed)
    assert [compose(*words, f"row={place}").steps for place in (3, 4)] == [6, 500]


# Complete sweeps

FEW = """# @package _global_
defaults:
  - override /model: imdn
experiment_name: mine/table
table: {paper: osffnet, name: table2}
rows:
  "000": [+model.num_feat=16]
  refused: [+model.num_feat=8]
hydra:
  mode: MULTIRUN
  sweeper: {params: {row: "${rows:}", scale: "4"}}
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("submitit") is None, reason="no submitit: install the slurm extra")
def test_the_rows_run_under_the_slurm_launcher_too_and_end_with_the_table(tmp_path):
    done = sr_lab(
        tmp_path,
        *(write_experiment(tmp_path / "conf", FEW), "experiment=mine/table", "hydra/launcher=submitit_local"),
        *("trainer=cpu", "budget=smoke", "+model.num_block=1", "logger=none", "num_workers=0"),
    )
    assert done.returncode == 1, done.stderr
    place = tmp_path / "outputs" / "mine" / "table"
    folders = {path.name.split("_")[2]: path for path in place.glob("imdn_*")}
    states = {label: RunFolder(folder).state() for label, folder in folders.items()}
    assert states == {"000": "finished", "refused": "failed"}
    assert re.search(r"│ 000 +│ +x4 │ +\d", done.stdout)
    assert f"failed: {folders['refused'].name}: CCA: num_feat=8 leaves no channel" in done.stdout
    listed = {job.folder: job.overrides for job in read_index(place)}
    assert listed.keys() == {folder.name for folder in folders.values()}
    assert all("+model.num_block=1" in given for given in listed.values())


KILL = """
import os, pathlib, signal, time
import lightning

class Once(lightning.Callback):
    def __init__(self, *, mark: str) -> None:
        self.mark = pathlib.Path(mark)

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 4 and not self.mark.exists():
            self.mark.touch()
            self.kill()

class Job(Once):
    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Sweep(Once):
    def kill(self):
        while not list(pathlib.Path("outputs").glob("*/*/*finished*/metrics.json")):
            time.sleep(0.1)
        sweep = os.getppid()
        os.kill(sweep, signal.SIGKILL)
        while os.getppid() == sweep:
            time.sleep(0.01)
"""
ROWS = """# @package _global_
defaults:
  - override /model: imdn
experiment_name: mine/table
table: {paper: osffnet, name: table2}
rows:
  finished: [+model.num_feat=16]
  killed: [+model.num_feat=16, seed=1, +callbacks.kill._target_=kill.Job, +callbacks.kill.mark=job]
  refused: [+model.num_feat=8]
  kills: [+model.num_feat=16, seed=2, +callbacks.kill._target_=kill.Sweep, +callbacks.kill.mark=sweep]
hydra:
  mode: MULTIRUN
  sweeper: {params: {row: "${rows:}", scale: "4"}}
"""


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory):
    """The same command run three times: the first sweep and a job are killed; the third retries failures."""
    place = tmp_path_factory.mktemp("sweep")
    (place / "kill.py").write_text(KILL)
    command = (
        *(write_experiment(place / "conf", ROWS), "experiment=mine/table", "trainer=cpu", "budget=smoke"),
        *("+model.num_block=1", "logger=none", "num_workers=0", "allow=[kill]", "sweep.jobs=2"),
    )
    folder = place / "outputs" / "mine" / "table"
    killed = sr_lab(place, *command)
    while any(RunFolder(path.parent).state() == "running" for path in folder.glob("*/config.yaml")):
        time.sleep(0.1)
    states = {job.label: RunFolder(folder / job.folder).state() for job in read_index(folder)}
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*finished*/*") if path.is_file()}
    again = sr_lab(place, *command)
    retried = sr_lab(place, *command, "sweep.retry_failed=true")
    changed = [path.name for path in stamps if path.stat().st_mtime_ns != stamps[path]]
    return {
        "killed": killed,
        "states": states,
        "again": again,
        "retried": retried,
        "changed": changed,
        "folders": {job.label: RunFolder(folder / job.folder) for job in read_index(folder)},
    }


def test_a_killed_sweep_terminates_its_jobs_and_loses_none_of_them(sweeps):
    assert sweeps["killed"].returncode == -signal.SIGKILL
    assert "killed by signal 9 (out of memory?)" in sweeps["killed"].stdout
    expected = {"finished": "finished", "killed": "interrupted", "kills": "interrupted", "refused": "failed"}
    assert sweeps["states"] == expected


def test_the_same_command_finishes_the_remaining_jobs(sweeps):
    assert sweeps["again"].returncode == 1, sweeps["again"].stderr  # one row is refused
    states = {label: folder.state() for label, folder in sweeps["folders"].items()}
    expected = {"finished": "finished", "killed": "finished", "kills": "finished", "refused": "failed"}
    assert states == expected
    for label in ("killed", "kills"):
        assert "resumes from" in sweeps["folders"][label].log.read_text()


def test_no_finished_job_runs_again(sweeps):
    assert sweeps["changed"] == []
    assert sweeps["again"].stdout.count("already finished") == 1
    assert sweeps["retried"].stdout.count("already finished") == 3
    attempts = {
        label: sweeps["folders"][label].log.read_text().count("budget smoke")
        for label in ("finished", "killed", "kills")
    }
    assert attempts == {"finished": 1, "killed": 2, "kills": 2}


def test_a_failed_job_is_started_again_only_on_request(sweeps):
    assert "failed last time: CCA: num_feat=8 leaves no channel" in sweeps["again"].stdout
    assert "failed last time" not in sweeps["retried"].stdout
    assert (
        sweeps["folders"]["refused"].log.read_text().count("error: CCA") == 2
    )  # the first attempt and the retry


def test_the_results_of_a_job_contain_its_row_and_table(sweeps):
    for label in ("finished", "killed", "kills"):
        values = sweeps["folders"][label].read_metrics()
        assert values["row"] == label
        assert values["table"].items() >= {"paper": "osffnet", "name": "table2"}.items()
        assert values["run"] == f"imdn_x4_{label}_smoke_num_block-1"


def test_a_sweep_with_parallel_jobs_prints_a_line_for_each_event(sweeps):
    first = sweeps["killed"].stdout
    for text in (
        "[1/4] imdn_x4_finished",
        "[2/4] imdn_x4_killed",
        "[3/4] imdn_x4_refused",
        "[4/4] imdn_x4_kills",
    ):
        assert text in first
    assert "6 steps, batch 2" not in first  # the job writes this only into its log
