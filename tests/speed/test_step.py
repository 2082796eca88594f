import copy

import lightning
import pytest
import torch

from sr_lab.speed import step
from sr_lab.speed.benchmark import measure
from sr_lab.training.weight_average import WeightAverage
from tests import tiny
from tests.operators import FETCH, Operators

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
    pytest.mark.filterwarnings(r"ignore:Checkpoint directory .* exists and is not empty"),
]

BATCHES = step.in_memory(scale=2, batch_size=2, lr_patch_size=6)


def network() -> step.TinyNetwork:
    torch.manual_seed(0)
    return step.TinyNetwork(scale=2)


def test_the_benchmarks_run_and_return_their_figures(tmp_path, monkeypatch):
    for name, value in {"SCALE": 2, "BATCH_SIZE": 1, "LR_PATCH_SIZE": 4, "TINY_STEPS": 3}.items():
        monkeypatch.setattr(step, name, value)
    assert set(measure(step.benchmarks(tmp_path), rounds=1)) == {
        "step.ms",
        "step.ratio_to_bare_loop",
        "step.overhead_ms",
    }


def test_the_bare_loop_and_the_trainer_compute_the_same_weights(tmp_path):
    ours, bare = network(), network()
    step.with_trainer(ours, BATCHES, folder=tmp_path, scale=2, steps=5, device="cpu")
    step.with_bare_loop(bare, BATCHES, steps=5, device="cpu")
    for own, reference in zip(ours.parameters(), bare.parameters(), strict=True):
        assert torch.equal(own, reference)
        assert not torch.equal(own, dict(network().named_parameters())["0.weight"]) or own.ndim == 1


def test_only_the_steps_between_warm_up_and_end_are_timed(monkeypatch):
    clock = iter([10.0, 16.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    timed = step.Timed(BATCHES, steps=3, device="cpu")
    assert len(list(timed)) == 2 + 3 + 1
    assert timed.seconds_a_step == 2.0


def test_no_value_is_fetched_from_the_device_between_recorded_rows(tmp_path):
    steps = 40
    with Operators() as operators:
        step.with_trainer(network(), BATCHES, folder=tmp_path, scale=2, steps=steps, device="cpu")
    # The row at the last step copies its means to the CPU once. On a CPU, but not on a GPU, Adam also fetches
    # its step count, and `NanPolicy` fetches whether the gradient is finite.
    assert operators.counts[FETCH] - adams_own(steps + 3) - (steps + 3) == 0


def adams_own(steps: int) -> int:
    """Number of values that the optimizer itself fetches in this many steps."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with Operators() as operators:
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.rand(1, 3, 4, 4)).mean().backward()
            optimizer.step()
    return operators.counts[FETCH]


def test_averaging_the_weights_fetches_no_value_from_the_device(tmp_path):
    with Operators() as operators:
        tiny.trainer(tmp_path, max_steps=4, limit_val_batches=0, callbacks=[WeightAverage(0.9)]).fit(
            tiny.sr_module(), tiny.data()
        )
    assert operators.counts[FETCH] == 1  # the loader draws a seed when it starts


class WaitsAreErrors(lightning.Callback):
    """Makes it an error to wait for the GPU, from the third step to the last step but one.

    Lightning itself waits when it moves the first batch and when it ends.
    """

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 3:
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == trainer.max_steps - 1:
            torch.cuda.set_sync_debug_mode("default")


def test_waits_are_errors_only_in_the_middle_of_a_run(tmp_path, monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: modes.append((mode, len(seen))))
    seen = []
    module = tiny.sr_module()
    monkeypatch.setattr(module, "lr_scheduler_step", lambda *_: seen.append(1))
    tiny.trainer(tmp_path, max_steps=8, limit_val_batches=0, callbacks=[WaitsAreErrors()]).fit(
        module, tiny.data()
    )
    assert modes == [("error", 3), ("default", 7)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("average", [False, True])
def test_a_thousand_steps_do_not_wait_for_the_gpu(tmp_path, average):
    module = tiny.sr_module()
    batches = [copy.deepcopy(BATCHES[0]) for _ in range(4)]
    for batch in batches:
        batch.update({key: value.pin_memory() for key, value in batch.items() if key != "name"})
    try:
        tiny.trainer(
            tmp_path,
            accelerator="gpu",
            max_steps=1000,
            limit_val_batches=0,
            callbacks=[WaitsAreErrors(), *([WeightAverage(0.9)] if average else [])],
        ).fit(module, train_dataloaders=step.Timed(batches, steps=997, device="cpu"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
