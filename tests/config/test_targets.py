"""The builder builds only the classes on its list, and only from plain values."""

import inspect
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sr_lab.config import allowed, targets
from sr_lab.config.allowed import SLOTS
from sr_lab.config.untrusted import below
from sr_lab.errors import ConfigError
from tests.composing import compose
from tests.security import hostile

# Each of these runs code, opens a pickle, writes a file or opens a connection when it is called or used.
ATTACKS = [
    *("os.system", "subprocess.Popen", "builtins.eval", "pathlib.Path", "functools.partial"),
    *("torch.hub.load", "torch.load", "torch.save", "torch.serialization.load", "torch.ops.load_library"),
    *("torch.utils.collect_env.run", "torch.utils.cpp_extension.load", "torch.distributed.run.main"),
    *("torch.os.system", "torch.nn.modules.module.torch.os.system", "torch.jit.load"),
    "torch.utils.collect_env.subprocess.Popen",
    *("torch.utils.data.datapipes.iter.RoutedDecoder", "torch.utils.data.datapipes.iter.FileOpener"),
    *("torch.utils.data.ConcatDataset", "torch.nn.ModuleList", "torch.nn.Sequential"),
    "lightning.fabric.utilities.cloud_io._load",
    "lightning.pytorch.utilities.upgrade_checkpoint.main",
    "lightning.pytorch.callbacks.OnExceptionCheckpoint",
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.loggers.MLFlowLogger",
    "lightning.pytorch.profilers.XLAProfiler",
    "lightning.pytorch.plugins.io.AsyncCheckpointIO",
    *("sr_lab.runs.sweep.subprocess.run", "sr_lab.config.targets.build", "sr_lab.training.record.Record"),
    *("sr_lab.checkpoints.reading.open_checkpoint", "sr_lab.models.imdn.nn.Conv2d", "sr_lab.models.imdn"),
    "kornia.core.external.importlib.import_module",
    "kornia.augmentation.RandomDissolving",
]
HONEST = {
    "model": {"_target_": "sr_lab.models.imdn.IMDN", "scale": 2},
    "upsampler": {"_target_": "sr_lab.upsamplers.subpixel.SubpixelUpsampler", "_partial_": True},
    "strategy": {"_target_": "sr_lab.strategies.ggas.apply", "_partial_": True},
    "layer": {"_target_": "torch.nn.LeakyReLU", "negative_slope": 0.1},
    "schedule": {"_target_": "torch.optim.lr_scheduler.StepLR", "_partial_": True, "step_size": 2},
    "dataset": {"_target_": "sr_lab.datasets.sample.SamplePhotographs", "_partial_": True, "seed": 1},
    "degradation": {"_target_": "sr_lab.degradations.bicubic.BicubicDegradation", "scale": 2},
    "loss": {"_target_": "torch.nn.L1Loss", "reduction": "mean"},
    "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1},
    "trainer": {"_target_": "lightning.Trainer", "_partial_": True, "devices": 1},
    "profiler": {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "extended": True},
    "callback": {"_target_": "lightning.pytorch.callbacks.Timer", "interval": "step"},
    "logger": {"_target_": "lightning.pytorch.loggers.CSVLogger", "_partial_": True, "prefix": "a"},
}


def test_every_slot_builds_its_honest_description():
    assert HONEST.keys() == SLOTS.keys()
    for slot, node in HONEST.items():
        targets.check(slot, node)
        assert targets.build(slot, node) is not None


@pytest.mark.parametrize("slot", SLOTS)
def test_an_attack_is_refused_in_every_slot_and_at_every_depth(slot: str):
    honest = HONEST[slot]
    names = inspect.signature(targets.locate(honest["_target_"])).parameters
    setting = next(name for name in names if name not in SLOTS[slot].supplied)
    others = [node["_target_"] for name, node in HONEST.items() if name != slot]
    with hostile.nothing_runs():
        for attack in [*ATTACKS, *others]:
            for description in ({"_target_": attack}, {"_target_": attack, "_partial_": True}):
                with pytest.raises(ConfigError, match="_target_"):
                    targets.build(slot, description)
                if attack in others:  # an argument may contain a class of another slot
                    continue
                for value in (description, [[description]], {"a": description}):
                    with pytest.raises(ConfigError, match=rf"{setting}.*_target_"):
                        targets.build(slot, honest | {setting: value})


@pytest.mark.parametrize("slot", SLOTS)
def test_only_a_nested_slot_may_be_described_inside_an_argument(slot: str):
    names = inspect.signature(targets.locate(HONEST[slot]["_target_"])).parameters
    setting = next(name for name in names if name not in SLOTS[slot].supplied)
    for other in HONEST.keys() - set(SLOTS[slot].nested):
        with pytest.raises(ConfigError, match=rf"{setting}\._target_: .* may not be named here"):
            targets.check(slot, HONEST[slot] | {setting: HONEST[other]})


def test_a_class_that_an_allowed_package_only_imports_is_refused():
    assert targets.locate("sr_lab.models.imdn.SRNetwork").__module__ == "sr_lab.layers.network"
    with pytest.raises(ConfigError, match="may not be named here"):
        targets.check("model", {"_target_": "sr_lab.models.imdn.SRNetwork"})


@pytest.mark.parametrize("name", ["host.attach", "ggas.GGAS", "ggas.apply.__call__"])
def test_a_strategy_is_the_apply_function_of_its_module(name: str):
    with pytest.raises(ConfigError, match=r"may not be named here|cannot import"):
        targets.check("strategy", {"_target_": f"sr_lab.strategies.{name}", "name": "x", "strategy": None})


@pytest.mark.parametrize("slot", SLOTS)
def test_arguments_must_be_plain_values(slot: str):
    setting = list(inspect.signature(targets.locate(HONEST[slot]["_target_"])).parameters)[-1]
    for value in ("${scale}", r"\${scale}", ["a${x:}"], {"${a}": 1}, object(), b"x", (1,), {1: object()}):
        with pytest.raises(ConfigError):
            targets.build(slot, HONEST[slot] | {setting: value})


@pytest.mark.parametrize("key", ["${a}", 1.5j, ("a",)])
def test_keys_must_be_plain_values(key: object):
    with pytest.raises(ConfigError, match=r"remove it|must be a plain value"):  # `tags` has no annotation
        targets.check("logger", {"_target_": "lightning.pytorch.loggers.WandbLogger", "tags": {key: 1}})


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_convert_", "__class__", "self", "kwargs"])
def test_any_other_key_is_refused(key: str):
    for slot, node in HONEST.items():
        with pytest.raises(ConfigError, match=key):
            targets.check(slot, node | {key: []})


def test_a_description_may_not_set_arguments_that_our_code_passes():
    for slot, node in HONEST.items():
        for name in SLOTS[slot].supplied:
            with pytest.raises(ConfigError, match=f"{name}: .*has no such setting"):
                targets.check(slot, node | {name: 1})


@pytest.mark.parametrize("value", [1, "true", None, [], {"_target_": "torch.nn.L1Loss"}])
def test_only_true_and_false_say_whether_a_description_is_of_a_factory(value: object):
    with pytest.raises(ConfigError, match=r"loss\._partial_: must be true or false"):
        targets.check("loss", {"_target_": "torch.nn.L1Loss", "_partial_": value})


@pytest.mark.parametrize("node", [None, 1, "torch.nn.L1Loss", [], {}, {"reduction": "mean"}])
def test_a_description_names_its_class(node: object):
    with pytest.raises(ConfigError, match=r"loss: must be a group of settings with a _target_"):
        targets.build("loss", node)


@pytest.mark.parametrize(
    "name", [None, 1, ["torch.nn.L1Loss"], "", "torch", "torch.nn.L1Loss ", ".torch.nn.L1Loss"]
)
def test_only_the_whole_name_of_a_class_matches(name: object):
    with pytest.raises(ConfigError, match=r"loss\._target_: .* may not be named here"):
        targets.build("loss", {"_target_": name})


ADMITTED = Path(__file__).with_name("admitted.json")


def test_library_classes_have_only_the_parameters_that_were_reviewed():
    """A new version may add an argument that opens a file, so review new arguments before storing them."""
    stored = json.loads(ADMITTED.read_text())
    found = {
        name: sorted(targets._parameters(targets.locate(name), name))
        for slot in SLOTS.values()
        for name in slot.classes
    }
    assert found == stored


def test_the_named_keywords_belong_to_admitted_classes():
    admitted = {name for slot in SLOTS.values() for name in slot.classes}
    assert allowed.KEYWORDS.keys() <= admitted


def test_an_untrusted_package_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_package.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"if evil_package is your own package, add allow=\[evil_package\]"):
        targets.check("loss", {"_target_": "evil_package.Loss"})
    assert "evil_package" not in sys.modules


def test_several_packages_are_trusted_in_the_environment(monkeypatch):
    monkeypatch.setenv("SR_LAB_ALLOW", "mine, ours")
    assert targets.trusted_packages(["theirs", "mine"]) == ("mine", "ours", "theirs")


@pytest.mark.parametrize("value", [3, None, ["mean"], True])
def test_a_value_has_the_type_that_its_class_states(value: object):
    with pytest.raises(ConfigError, match=r"loss\.reduction: .*valid string"):
        targets.check("loss", {"_target_": "torch.nn.L1Loss", "reduction": value})


def test_a_package_whose_name_begins_like_a_trusted_one_is_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "my_own.py").write_text("from my_own_evil import Loss\n")
    (tmp_path / "my_own_evil.py").write_text("from torch import nn\nclass Loss(nn.L1Loss): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="may not be named here"):
        targets.check("loss", {"_target_": "my_own_evil.Loss"}, ["my_own"])
    assert "my_own_evil" not in sys.modules
    with pytest.raises(ConfigError, match="may not be named here"):
        targets.check("loss", {"_target_": "my_own.Loss"}, ["my_own"])


def test_a_package_of_the_user_is_trusted_on_the_command_line_only(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(
        "import os\nfrom torch import nn\nfrom torch.nn import Sequential\n"
        "class Mine(nn.L1Loss): pass\nclass Other: pass\ndef make(): return Mine()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = ("trainer=cpu", "loss._target_=my_losses.Mine")
    assert compose(*mine, "allow=[my_losses]").loss["_target_"] == "my_losses.Mine"
    with pytest.raises(ConfigError, match="may not be named here"):
        compose(*mine)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "sly.yaml").write_text("# @package _global_\nallow: [my_losses]\n")
    with pytest.raises(ConfigError, match="allow: a file may not allow a package"):
        compose(*mine, f"hydra.searchpath=[file://{tmp_path}]", "experiment=sly")
    monkeypatch.setenv("SR_LAB_ALLOW", "my_losses")
    assert compose(*mine).loss["_target_"] == "my_losses.Mine"
    for name in (
        "my_losses.Sequential",
        "my_losses.make",
        "my_losses.Other",
        "my_losses.nn.L1Loss",
        "my_losses.os.system",
        "my_losses",
    ):
        with pytest.raises(ConfigError, match=r"loss\._target_"):
            targets.check("loss", {"_target_": name})


def test_paths_of_a_description_are_placed_below_a_folder_and_other_text_is_not():
    given = {"dirpath": "a", "filename": "b", "inner": [{"save_dir": "c", "root": None, "count": 1}]}
    placed = {
        "dirpath": "/run/a",
        "filename": "b",
        "inner": [{"save_dir": "/run/c", "root": None, "count": 1}],
    }
    assert below(Path("/run"), given) == placed


def test_a_file_may_not_decide_who_gets_the_runs(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "sly.yaml").write_text(
        "# @package _global_\nlogger: {wandb: {entity: somebody}}\n"
    )
    words = ("trainer=cpu", "logger=wandb", f"hydra.searchpath=[file://{tmp_path}]", "experiment=sly")
    with pytest.raises(ConfigError, match=r"logger\.wandb\.entity: a file may not choose the owner"):
        compose(*words)
    logger = compose(*words, "++logger.wandb.entity=us").logger["wandb"]
    assert isinstance(logger, dict)
    assert logger["entity"] == "us"


NAMES = st.sampled_from(
    [
        *ATTACKS,
        *(name for slot in SLOTS.values() for name in slot.classes),
        *(n["_target_"] for n in HONEST.values()),
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.floats(0, 1) | st.text(max_size=5) | NAMES,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["_target_", "_partial_", "_args_", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(slot=st.sampled_from(sorted(SLOTS)), name=NAMES, values=st.lists(VALUES, max_size=3), data=st.data())
def test_only_listed_classes_are_built_whatever_a_description_says(slot, name, values, data):
    honest = HONEST[slot]["_target_"]
    parameters = [*inspect.signature(targets.locate(honest)).parameters, "_partial_", "_target_"]
    node = {"_target_": data.draw(st.sampled_from([name, honest]))}
    node |= {data.draw(st.sampled_from(parameters)): value for value in values}
    with hostile.nothing_runs():
        try:
            described = targets._read(slot, node, (slot,), ())
        except ConfigError:
            return
    waiting = [(described, (slot,))]
    while waiting:
        value, slots = waiting.pop()
        if isinstance(value, targets._Described):
            path = f"{value.target.__module__}.{value.target.__qualname__}"
            rooms = tuple(f"{SLOTS[s].room}." for s in slots if SLOTS[s].room)
            listed = [targets.locate(n) for s in slots for n in SLOTS[s].classes]
            assert value.target in listed or path.startswith(rooms), path
            inner = tuple(n for s in slots for n in SLOTS[s].nested)
            waiting += [(argument, inner) for argument in value.arguments.values()]
        elif isinstance(value, (list, dict)):
            waiting += [(child, slots) for child in (value.values() if isinstance(value, dict) else value)]
        else:
            assert value is None or isinstance(value, (bool, int, float, str))


def test_settings_that_a_constructor_refuses_give_a_one_sentence_error():
    with pytest.raises(
        ConfigError, match=r"torch\.optim\.adam\.Adam: cannot be built: Invalid learning rate"
    ):
        targets.build(
            "optimizer", {"_target_": "torch.optim.Adam", "lr": -1.0}, params=nn.Linear(1, 1).parameters()
        )
