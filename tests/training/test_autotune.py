import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sr_lab.config.schema import TrainConfig
from sr_lab.errors import ConfigError
from sr_lab.models.bsrn import BSRN
from sr_lab.models.edsr_shallow import ShallowEDSR
from sr_lab.training import autotune, build
from sr_lab.training.autotune import Choice, Setting, choose, settings
from tests import tiny
from tests.composing import compose

NETWORKS = [
    pytest.param(ShallowEDSR, {"num_feat": 16}, id="plain convolutions"),
    pytest.param(BSRN, {"num_feat": 16, "num_block": 1}, id="depthwise convolutions"),
]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Measure each setting for only a hundredth of a second."""
    monkeypatch.setattr(autotune, "_SECONDS", 0.01)


@pytest.fixture
def instant(monkeypatch):
    """Replace the measurement: every setting takes one second."""
    monkeypatch.setattr(autotune, "_measure", lambda steps: dict.fromkeys(steps, 1.0))


def chosen(network: nn.Module, folder: Path, **changed: object) -> Choice:
    arguments = {
        "among": settings(compile=False),
        "lr_shape": (1, 3, 16, 16),
        "scale": 2,
        "device": torch.device("cpu"),
        "autocast": None,
        "tf32": False,
        "benchmark": True,
        "known_as": {"name": "a"},
        "cache_dir": folder,
    }
    return choose(network, **(arguments | changed))


@pytest.mark.parametrize(("model", "sizes"), NETWORKS)
def test_the_fastest_measured_setting_is_chosen_and_stored(tmp_path, model, sizes):
    choice = chosen(model(scale=2, **sizes), tmp_path)
    assert set(choice.seconds) == {"plain", "channels_last"}
    assert choice.seconds[str(choice.setting)] == min(choice.seconds.values())
    assert choice.ratios[str(choice.setting)] == 1
    kept = json.loads(choice.file.read_text())
    assert kept["seconds"] == choice.seconds
    assert kept["torch"] == torch.__version__


@pytest.mark.parametrize(("model", "sizes"), NETWORKS)
def test_a_second_call_reads_the_file_and_measures_nothing(tmp_path, monkeypatch, model, sizes):
    first = chosen(model(scale=2, **sizes), tmp_path)
    monkeypatch.setattr(autotune, "_measure", lambda *_: pytest.fail("measured again"))
    second = chosen(model(scale=2, **sizes), tmp_path)
    assert (second.setting, second.seconds) == (first.setting, first.seconds)
    assert (first.measured, second.measured) == (True, False)


@pytest.mark.parametrize(
    "changed",
    [
        {"known_as": {"name": "b"}},
        {"lr_shape": (2, 3, 16, 16)},
        {"autocast": torch.bfloat16},
        {"tf32": True},
        {"benchmark": False},
        {"among": [Setting()]},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_another_network_batch_or_precision_is_measured_again(tmp_path, instant, changed):
    first = chosen(tiny.TinyNet(), tmp_path)
    assert chosen(tiny.TinyNet(), tmp_path, **changed).file != first.file


def test_another_processor_is_measured_again(tmp_path, instant, monkeypatch):
    first = chosen(tiny.TinyNet(), tmp_path)  # many machines may share the folder
    monkeypatch.setattr(autotune, "processor", lambda: "another")
    assert chosen(tiny.TinyNet(), tmp_path).file != first.file


def test_the_slower_setting_is_not_chosen(tmp_path, monkeypatch):
    times = iter([1.0, 1.0] + [3.0, 2.0] * 5)  # two runs that determine the repetitions, then five rounds
    monkeypatch.setattr(autotune, "_seconds", lambda *_: next(times))
    choice = chosen(tiny.TinyNet(), tmp_path)
    assert choice.setting == Setting(channels_last=True)
    assert str(choice).startswith(
        "autotune: channels_last (measured now; relative to the fastest: plain 1.50, channels_last 1.00; kept"
    )


def test_a_few_slow_measurements_do_not_change_the_choice(tmp_path, monkeypatch):
    times = iter([1.0, 1.0] + [2.0, 3.0] * 3 + [90.0, 3.0] * 2)
    monkeypatch.setattr(autotune, "_seconds", lambda *_: next(times))
    assert chosen(tiny.TinyNet(), tmp_path).setting == Setting()


def test_the_network_and_the_random_state_stay_unchanged(tmp_path):
    class Noisy(tiny.TinyNet):
        def forward(self, lr: Tensor) -> Tensor:
            return super().forward(lr + torch.rand_like(lr))

    network = Noisy()
    before, state = network.head.weight.clone(), torch.get_rng_state()
    chosen(network, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network.head.weight, before)
    assert network.head.weight.grad is None
    assert network.head.weight.is_contiguous()


class NoChannelsLast(tiny.TinyNet):
    def forward(self, lr: Tensor) -> Tensor:
        if not self.head.weight.is_contiguous():
            raise RuntimeError("no such kernel")
        return super().forward(lr)


def test_a_setting_that_fails_is_left_out(tmp_path):
    choice = chosen(NoChannelsLast(), tmp_path)
    assert set(choice.seconds) == {"plain"}
    assert choice.setting == Setting()


def test_the_error_of_a_network_that_always_fails_is_raised(tmp_path):
    class Broken(nn.Module):
        def forward(self, lr: Tensor) -> Tensor:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        chosen(Broken(), tmp_path)


def test_a_second_process_waits_for_the_first_and_reads_its_result(tmp_path, monkeypatch):
    measuring, calls = threading.Event(), []

    def slowly(steps: dict[str, object]) -> dict[str, float]:
        calls.append(1)
        measuring.set()
        time.sleep(0.2)
        return dict.fromkeys(steps, 1.0)

    monkeypatch.setattr(autotune, "_measure", slowly)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(chosen, tiny.TinyNet(), tmp_path)
        measuring.wait()
        assert not chosen(tiny.TinyNet(), tmp_path).measured
        assert first.result().measured
    assert len(calls) == 1


@pytest.mark.parametrize(
    "content", ["", "[]", '{"seconds": {}}', '{"seconds": {"other": 1}}', '{"seconds": 1}']
)
def test_a_damaged_file_leads_to_a_new_measurement(tmp_path, instant, content):
    first = chosen(tiny.TinyNet(), tmp_path)
    first.file.write_text(content)
    assert chosen(tiny.TinyNet(), tmp_path).measured
    assert not chosen(tiny.TinyNet(), tmp_path).measured


@pytest.mark.parametrize("benchmark", [True, False])
@pytest.mark.parametrize("tf32", [True, False])
def test_the_network_is_measured_with_the_settings_of_its_run(tmp_path, tf32, benchmark):
    seen = set()

    class Watch(tiny.TinyNet):
        def forward(self, lr: Tensor) -> Tensor:
            backends = torch.backends
            seen.add((backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, backends.cudnn.benchmark))
            return super().forward(lr)

    chosen(Watch(), tmp_path, tf32=tf32, benchmark=benchmark)
    assert seen == {(tf32, tf32, benchmark)}


@pytest.fixture(scope="module")
def config():
    """The configuration of a training run with autotuning."""
    return compose("trainer=cpu", "trainer.autotune=true")


def form(config: TrainConfig, **changed: object) -> None:
    """Call `build.layout_and_compilation` with changed settings of the trainer."""
    trainer = config.trainer.model_copy(update=changed)
    build.layout_and_compilation(config.model_copy(update={"trainer": trainer}), tiny.TinyNet(), 16, print)


@pytest.mark.parametrize(
    ("changed", "switches"),
    [
        ({}, (True, True)),
        ({"float32_matmul_precision": "highest"}, (False, True)),
        ({"deterministic": True}, (True, False)),
        ({"benchmark": False}, (True, False)),
    ],
)
def test_autotuning_uses_the_switches_of_the_run(config, tmp_path, monkeypatch, changed, switches):
    asked = {}

    def noted(*_: object, **named: object) -> Choice:
        asked.update(named)
        return Choice(Setting(), {"plain": 1.0}, tmp_path, measured=True)

    monkeypatch.setattr(build, "choose", noted)
    form(config, **changed)
    assert (asked["tf32"], asked["benchmark"]) == switches


@pytest.mark.parametrize("wanted", [True, False])
def test_a_requested_layout_that_is_not_chosen_is_named(config, tmp_path, monkeypatch, capsys, wanted):
    found = Choice(Setting(), {"plain": 1.0}, tmp_path, measured=True)
    monkeypatch.setattr(build, "choose", lambda *_, **__: found)
    form(config, channels_last=wanted)
    said = capsys.readouterr().out.replace("\n", " ")
    assert ("this overrides trainer.channels_last=true" in said) is wanted


def test_several_machines_are_refused_since_they_may_choose_differently(config):
    with pytest.raises(ConfigError, match=r"trainer\.autotune: measures on one machine, got 2"):
        form(config, num_nodes=2)


def test_several_machines_are_refused_even_if_slurm_starts_the_processes(config, monkeypatch):
    for name, value in {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_JOB_NAME": "job"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"trainer\.autotune: measures on one machine, got 2"):
        form(config)


def test_there_are_four_combinations_with_a_compiler_and_two_without_it():
    assert [str(setting) for setting in settings(compile=True)] == [
        "plain",
        "channels_last",
        "compile",
        "channels_last + compile",
    ]
    assert [str(setting) for setting in settings(compile=False)] == ["plain", "channels_last"]


def test_channels_last_applies_to_the_features_and_keeps_the_names_of_the_weights():
    network = Setting(channels_last=True).apply(tiny.TinyNet())
    assert network.head(torch.rand(1, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    assert set(network.state_dict()) == set(tiny.TinyNet().state_dict())
