import sys

import pytest

from sr_lab.config import targets
from sr_lab.errors import ConfigError
from tests.conftest import compose

# Each of these runs code, opens a pickle or writes a file when it is called.
ATTACKS = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "torch.hub.load",
    "torch.load",
    "torch.save",
    "torch.serialization.load",
    "torch.ops.load_library",
    "torch.utils.collect_env.run",
    "torch.utils.cpp_extension.load",
    "torch.distributed.run.main",
    "torch.os.system",
    "torch.nn.modules.module.torch.os.system",
    "torch.utils.collect_env.subprocess.Popen",
    "lightning.fabric.utilities.cloud_io._load",
    "lightning.pytorch.utilities.upgrade_checkpoint.main",
    "sr_lab.runs.sweep.subprocess.run",
    "sr_lab.config.schema.load",
    "sr_lab.config.targets.build",
    "sr_lab.checkpoints.reading.open_checkpoint",
    "kornia.core.external.importlib.import_module",
]


def check_loss(node: dict[str, object]) -> None:
    targets.check("loss", node, trusted=targets.TRUSTED, kind="torch.nn.Module")


@pytest.mark.parametrize("slot", sorted(targets.KINDS))
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_in_every_slot(attack: str, slot: str):
    with pytest.raises(ConfigError, match="_target_"):
        targets.check(slot, {"_target_": attack}, trusted=targets.TRUSTED, kind=targets.KINDS[slot])


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_inside_an_argument_is_refused(attack: str):
    node = {"_target_": "torch.nn.L1Loss", "reduction": {"_target_": attack, "_partial_": True}}
    with pytest.raises(ConfigError, match=r"loss\.reduction\._target_"):
        check_loss(node)


@pytest.mark.parametrize("attack", ATTACKS[:4])
def test_an_attack_inside_a_list_is_refused(attack: str):
    node = {"_target_": "torch.nn.L1Loss", "reduction": [[{"_target_": attack}]]}
    with pytest.raises(ConfigError, match=r"loss\.reduction\[0\]\[0\]\._target_"):
        check_loss(node)


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_convert_"])
def test_hydras_other_keys_are_refused(key: str):
    with pytest.raises(ConfigError, match=key):
        check_loss({"_target_": "torch.nn.L1Loss", key: []})


def test_an_untrusted_package_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_package.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"not in a trusted package.*allow=\[\.\.\.\] on the command line"):
        check_loss({"_target_": "evil_package.Loss"})
    assert "evil_package" not in sys.modules


def test_a_class_of_another_kind_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer\._target_: 'torch.nn.L1Loss' is not a torch"):
        compose("trainer=cpu", "optimizer._target_=torch.nn.L1Loss", "~optimizer.lr")


def test_a_users_package_is_trusted_on_the_command_line_only(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text("from torch import nn\nclass Mine(nn.L1Loss): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = ("trainer=cpu", "loss._target_=my_losses.Mine")
    assert compose(*mine, "allow=[my_losses]").loss["_target_"] == "my_losses.Mine"
    with pytest.raises(ConfigError, match="not in a trusted package"):
        compose(*mine)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "sly.yaml").write_text("# @package _global_\nallow: [my_losses]\n")
    with pytest.raises(ConfigError, match="allow: is set in a file"):
        compose(*mine, f"hydra.searchpath=[file://{tmp_path}]", "experiment=sly")
    monkeypatch.setenv("SR_LAB_ALLOW", "my_losses")
    assert compose(*mine).loss["_target_"] == "my_losses.Mine"


def test_a_class_that_a_trusted_package_only_imports_is_refused():
    with pytest.raises(ConfigError, match="is defined in 'collections', which is not trusted"):
        check_loss({"_target_": "torch.nn.modules.module.OrderedDict"})


def test_what_the_code_passes_itself_cannot_be_configured():
    with pytest.raises(ConfigError, match=r"trainer\.logger: Trainer has no such setting"):
        compose("trainer=cpu", "+trainer.logger=false")
