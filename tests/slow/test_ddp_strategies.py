"""A network with a strategy trains in two processes; DDP would fail if a parameter had no gradient."""

from pathlib import Path

import pytest
import torch

from sr_lab.files import conf_dir
from tests.command_line import SMOKE, run_folder, sr_lab

pytestmark = pytest.mark.slow

STRATEGIES = sorted(path.stem for path in (conf_dir() / "strategy").glob("*.yaml") if path.stem != "none")
TWO = (
    *("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"),
    "trainer.sync_batchnorm=false",  # torch synchronises batch norm on GPUs only
)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_every_parameter_and_finish(strategy: str, tmp_path: Path):
    arguments = (*(a for a in SMOKE if a != "trainer=cpu"), *TWO, "logger=none", "num_workers=0")
    done = sr_lab(tmp_path, *arguments, f"strategy={strategy}")
    assert done.returncode == 0, done.stderr
    assert (run_folder(tmp_path) / "metrics.json").is_file()
    checkpoint = torch.load(run_folder(tmp_path) / "checkpoints" / "last.ckpt", weights_only=True)
    (optimizer,) = checkpoint["optimizer_states"]
    (group,) = optimizer["param_groups"]
    assert any(".strategy." in name for name in checkpoint["state_dict"])
    assert {int(optimizer["state"][k]["step"]) for k in group["params"]} == {6}  # steps of the smoke budget
