import types
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from sr_lab.training.weight_average import WeightAverage
from tests import tiny

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


def averaged(folder: Path, average: lightning.Callback, **settings: object) -> tuple[dict[str, Tensor], int]:
    """The averaged weights after three steps, and the number of updates of the average."""
    module = tiny.sr_module(learning_rate=0.1)
    steps = tiny.trainer(folder, max_steps=3, limit_val_batches=0, callbacks=[average], **settings)
    steps.fit(module, tiny.data(accumulate=settings.get("accumulate_grad_batches", 1)))
    steps.save_checkpoint(folder / "a.ckpt")
    checkpoint = torch.load(folder / "a.ckpt", weights_only=True)
    return checkpoint["state_dict"], int(checkpoint["averaging_state"]["n_averaged"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_of_the_weights_equals_lightnings_average(tmp_path, accumulate):
    ours, count = averaged(tmp_path, WeightAverage(0.75), accumulate_grad_batches=accumulate)
    theirs, expected = averaged(tmp_path, EMAWeightAveraging(decay=0.75), accumulate_grad_batches=accumulate)
    assert count == expected == 3
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7)


def test_batch_statistics_are_averaged_and_their_count_is_copied():
    average, module = WeightAverage(0.75), nn.BatchNorm1d(2)
    trainer = types.SimpleNamespace(global_step=1)
    average._average_model = AveragedModel(module)
    average.on_train_start(trainer, module)
    average.on_train_batch_end(trainer, module)
    module.running_mean += 8
    module.num_batches_tracked += 5
    trainer.global_step = 2
    average.on_train_batch_end(trainer, module)
    kept = average._average_model.module
    assert kept.running_mean.tolist() == [2.0, 2.0]  # a quarter of the change
    assert int(kept.num_batches_tracked) == 5


def test_an_averaging_step_does_not_traverse_the_modules(monkeypatch):
    average, module = WeightAverage(0.9), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    trainer = types.SimpleNamespace(global_step=1)
    average._average_model = AveragedModel(module)
    average.on_train_start(trainer, module)
    expected = [value.detach().clone() for value in module.parameters()]
    means = list(average._average_model.module.parameters())
    weights = list(module.parameters())
    monkeypatch.setattr(nn.Module, "_named_members", lambda *_, **__: pytest.fail("walked"))
    average.on_train_batch_end(trainer, module)
    for step in range(2, 5):
        for value in weights:
            value.data.add_(step / 7)
        expected = [
            torch.lerp(mean, value.detach(), 1 - 0.9) for mean, value in zip(expected, weights, strict=True)
        ]
        trainer.global_step = step
        average.on_train_batch_end(trainer, module)
    assert all(torch.equal(mean, value) for mean, value in zip(means, expected, strict=True))
    assert all(mean.grad_fn is None for mean in means)
