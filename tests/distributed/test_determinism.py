"""The same command gives the same bits on a CPU, and every run says whether it is deterministic."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sr_lab.models.efrdn import EFRDN
from sr_lab.models.imdn import IMDN
from sr_lab.models.imfm import IMFM
from sr_lab.models.mren import MREN
from sr_lab.models.osffnet import OSFFNet
from sr_lab.strategies import ggas_cwss
from sr_lab.system.devices import why_not_deterministic
from tests import tiny
from tests.command_line import SMOKE, run_folder, sr_lab

# One network from each paper.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "osffnet": lambda: OSFFNet(scale=2, num_feat=16, num_block=2, num_copies=2),
    "efrdn": lambda: EFRDN(scale=2),
    "mren": lambda: MREN(scale=2, num_feat=12, num_block=1),
    "imfm": lambda: IMFM(scale=2, num_feat=8, num_block=1, num_path=2),
    "two_strategies": lambda: ggas_cwss.apply(IMDN(scale=2, num_feat=16, num_block=2)),
}
TIMES = {"wall_time_s", "date"}


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
@pytest.mark.filterwarnings(r"ignore:.*does not have many workers.*")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "efrdn" else []) for name in NETWORKS]
)
def test_training_twice_gives_the_same_weights_whatever_the_number_of_workers(tmp_path, name):
    def trained(workers: int) -> dict[str, Tensor]:
        torch.manual_seed(0)
        module = tiny.sr_module(
            network=NETWORKS[name](),
            make_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-4),
        )
        data = tiny.data(train=tiny.Patches(size=16), num_workers=workers)
        tiny.trainer(tmp_path, max_steps=4, limit_val_batches=0).fit(module, data)
        return module.network.state_dict()

    first = trained(0)
    for again in (trained(0), trained(2)):
        assert all(torch.equal(again[key], value) for key, value in first.items())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[tuple[dict[str, object], dict[str, bytes]]]:
    """Results and checkpoints of a command run three times, the third time with workers."""
    place = tmp_path_factory.mktemp("runs")
    found = []
    for extra in ("num_workers=0", "num_workers=0", "num_workers=2"):
        done = sr_lab(place, *SMOKE, "logger=none", "ema_decay=0.9", "resume=never", extra)
        assert done.returncode == 0, done.stderr
        folder = run_folder(place)
        checkpoints = {path.name: path.read_bytes() for path in (folder / "checkpoints").glob("*.ckpt")}
        found.append((json.loads((folder / "metrics.json").read_text()), checkpoints))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("other", [1, 2], ids=["the same command", "with workers"])
def test_a_command_writes_the_same_results_and_checkpoints_again(runs, other):
    (metrics, checkpoints), (again, checkpoints_again) = runs[0], runs[other]
    assert {k: v for k, v in again.items() if k not in TIMES} == {
        k: v for k, v in metrics.items() if k not in TIMES
    }
    assert {"best.ckpt", "last.ckpt"} <= checkpoints.keys()
    assert checkpoints_again == checkpoints  # the bytes are equal


@pytest.mark.slow
def test_a_run_on_a_cpu_says_that_it_is_deterministic(runs):
    assert runs[0][0]["deterministic"] == {"value": True, "because": []}


FREE = {"deterministic": False, "benchmark": True, "compiled": True, "autotuned": True, "world": 2}
FIXED = {"deterministic": True, "benchmark": False, "compiled": False, "autotuned": False, "world": 1}


def test_a_gpu_run_is_deterministic_only_if_every_setting_ensures_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert why_not_deterministic("gpu", **FIXED) == []
    because = why_not_deterministic("gpu", **FREE)
    assert [reason.partition(":")[0] for reason in because] == [
        "trainer.autotune",
        "GPU kernels",
        "trainer.benchmark",
        "trainer.compile",
        "NCCL",
    ]


def test_operations_that_only_warn_make_a_run_nondeterministic(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    (reason,) = why_not_deterministic("gpu", **(FIXED | {"deterministic": "warn"}))
    assert reason.startswith("GPU kernels: some add atomically")


def test_a_cpu_is_deterministic_unless_autotuning_chose_its_settings():
    assert why_not_deterministic("cpu", **(FREE | {"autotuned": False})) == []
    assert len(why_not_deterministic("cpu", **FREE)) == 1


@pytest.mark.slow
def test_a_run_with_trainer_deterministic_reports_that_it_is_deterministic(tmp_path: Path):
    done = sr_lab(tmp_path, *SMOKE, "logger=none", "num_workers=0", "trainer.deterministic=true")
    assert done.returncode == 0, done.stderr
    assert json.loads((run_folder(tmp_path) / "metrics.json").read_text())["deterministic"]["value"] is True
