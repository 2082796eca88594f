"""A package of the user's own, as ``experiments/own_code`` shows it and ``task=new`` writes it."""

import json
import random
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset

import sr_lab
from sr_lab.config import targets
from sr_lab.config.schema import NewConfig
from sr_lab.datasets.pairs import HeldOutPairs, PairDataset
from sr_lab.errors import ConfigError, DataError, SRLabError
from sr_lab.tasks import new
from sr_lab.training import build
from tests import tiny
from tests.command_line import sr_lab as run

EXAMPLE = Path(__file__).parents[1] / "experiments" / "own_code"
README = (EXAMPLE / "README.md").read_text()
FAST = ("trainer=cpu", "logger=none", "num_workers=0", "model.num_feat=8", "model.num_block=1")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A copy of the example, as a reader makes it."""
    return Path(shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("reader") / "own_code"))


@pytest.fixture
def own_sr(place, monkeypatch):
    """The example's package, importable until the test ends."""
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(str(place))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("own_sr", "mypkg", "broken")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def trained(place) -> Path:
    """The run of the README's first command."""
    done = run(place, *shlex.split(README.partition("```bash\n")[2].splitlines()[0])[3:], *FAST)
    assert done.returncode == 0, done.stderr
    (folder,) = (place / "outputs" / "train").iterdir()
    return folder


def test_every_kind_of_user_code_trains_by_the_readmes_command(trained):
    recipe = (trained / "config.yaml").read_text()
    for name in ("SmallNet", "NearestUpsampler", "EdgeLoss", "Trapezoid", "WeightNorm"):
        assert re.search(rf"_target_: own_sr\.\w+\.{name}\n", recipe)
    assert len((trained / "weight_norm.csv").read_text().splitlines()) == 2


@pytest.mark.usefixtures("trained")
def test_the_readmes_other_commands_run(place):
    sweep, explained = README.partition("```bash\n")[2].partition("```")[0].splitlines()[1:]
    page = run(place, *shlex.split(explained)[3:])
    assert "num_block=4" in page.stdout, page.stderr
    assert "--config-dir own_sr/conf" in page.stdout
    done = run(place, *shlex.split(sweep)[3:], "trainer=cpu", "logger=none", "model.num_block=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("│ num_feat ") == 2


@pytest.mark.parametrize("script", ["own_code/in_python.py", "inside/inside.py"])
def test_the_notebook_has_the_cells_of_the_script(script):
    path = EXAMPLE.parent / script
    notebook = json.loads(path.with_suffix(".ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells == [cell.partition("\n")[2].strip() for cell in path.read_text().split("# %% ")[1:]]
    assert not any(cell.get("outputs") for cell in notebook["cells"])


def test_the_script_that_looks_inside_a_network_runs(capsys):
    found = runpy.run_path(str(EXAMPLE.parent / "inside" / "inside.py"))
    assert len(found["blocks"]) == 4
    assert set(found["results"]) == {"bicubic", "quick_x2"}
    assert found["shown"](found["drawing"].maps({"": found["panels"]}, title="")).width == 770
    psnr = {line.split(":")[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[:2]}
    assert psnr["quick_x2"] > psnr["bicubic"] + 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("own_sr", "trained")
def test_the_script_runs(place):
    runpy.run_path(str(place / "in_python.py"))
    assert (place / "outputs" / "in_python.png").stat().st_size > 10_000


@pytest.mark.usefixtures("own_sr")
def test_a_users_own_network_loads_only_if_its_package_is_trusted(trained):
    assert type(sr_lab.load(trained, allow=["own_sr"])).__name__ == "SmallNet"
    with pytest.raises(ConfigError, match=r"if own_sr is your own package, add allow=\[own_sr\]"):
        sr_lab.load(trained)
    with pytest.raises(ConfigError, match=r"write allow=\['own_sr'\]"):
        sr_lab.load(trained, allow="own_sr")


@pytest.mark.usefixtures("own_sr")
@pytest.mark.parametrize("where", ["config_dir", "searchpath"])
def test_options_are_found_in_a_folder_and_in_a_package(where):
    words = ["model=small_net", "scale=2", "allow=[own_sr]", "trainer=cpu"]
    if where == "searchpath":
        config = sr_lab.compose(*words, "hydra.searchpath=[pkg://own_sr.conf]")
    else:
        config = sr_lab.compose(*words, config_dir="own_sr/conf")
    assert config.model["_target_"] == "own_sr.network.SmallNet"


# Slot and class, and the facts in the answer.
CLASSES = {
    "model own_sr.network.SmalNet": ("has no attribute", "did you mean 'SmallNet'?"),
    "model own_sr.netwrok.SmallNet": ("No module named 'own_sr.netwrok'",),
    "model own_sr.network": ("add the name of a class in it",),
    "model own_rs.network.SmallNet": ("may not be named here", "allow=[own_rs]"),
    "model missing.network.SmallNet": (
        "No module named 'missing'",
        "start in the folder that contains missing",
    ),
    "model broken.Net": ("SyntaxError", "broken.py, line 1"),
    "model own_sr.dataset.HalvedImages": ("does not derive from torch.nn.Module",),
    "model own_sr.dataset._tensor": ("is a function", "torch.nn.Module"),
    "dataset own_sr.network.SmallNet": ("does not derive from torch.utils.data.Dataset",),
    "schedule own_sr.network.SmallNet": ("does not derive from torch.optim.lr_scheduler.LRScheduler",),
    "callback own_sr.loss.EdgeLoss": ("does not derive from lightning.Callback",),
    "upsampler own_sr.upsampler.NearestUpsampler": ("num_feat", "_partial_: true"),
}


@pytest.mark.usefixtures("own_sr")
@pytest.mark.parametrize("named", CLASSES)
def test_a_wrong_class_gets_an_error_that_states_the_facts(named, place):
    (place / "broken.py").write_text("class Net(:\n")
    slot, path = named.split()
    with pytest.raises(ConfigError) as error:
        targets.check(slot, {"_target_": path}, ["own_sr", "missing", "broken"])
    assert [fact for fact in CLASSES[named] if fact not in str(error.value)] == [], error.value


class Pairs(Dataset[object]):
    """Valid pairs at x2, each changed by ``change``."""

    def __init__(self, change=lambda index, lr, hr: {"lr": lr, "hr": hr}, count: int = 40) -> None:
        self.change, self.count = change, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index):
        noise = torch.rand(3, 32, 32) * random.random() * float(np.random.rand())  # noqa: NPY002
        return self.change(index, noise[:, ::2, ::2], noise)


class Streamed(IterableDataset[object]):
    def __iter__(self):
        yield {}


class Unsized(Dataset[object]):
    def __getitem__(self, index):
        return {}


def lost(index, lr, hr):
    raise FileNotFoundError(2, "No such file or directory", "photos/7.png")


PAIRS = {
    "tuple": (Pairs(lambda i, lr, hr: (lr, hr)), ("a tuple", "{'lr': tensor, 'hr': tensor}")),
    "keys": (Pairs(lambda i, lr, hr: {"lq": lr, "gt": hr}), ("the keys lq, gt", "'hr'")),
    "none": (Pairs(lambda i, lr, hr: None), ("a NoneType",)),
    "0..255": (
        Pairs(lambda i, lr, hr: {"lr": lr * 0 + 200, "hr": hr}),
        ("200", "divide 8-bit values by 255"),
    ),
    "NaN": (Pairs(lambda i, lr, hr: {"lr": lr, "hr": hr * float("nan")}), ("'hr'", "nan", "[0, 1]")),
    "integers": (Pairs(lambda i, lr, hr: {"lr": lr.long(), "hr": hr}), ("torch.int64", "uint8")),
    "array": (Pairs(lambda i, lr, hr: {"lr": lr.numpy(), "hr": hr}), ("numpy.ndarray", "torch.from_numpy")),
    "channels last": (Pairs(lambda i, lr, hr: {"lr": lr.permute(1, 2, 0), "hr": hr}), ("permute(2, 0, 1)",)),
    "grey": (Pairs(lambda i, lr, hr: {"lr": lr[:1], "hr": hr}), ("(1, 16, 16)", "three channels")),
    "a batch": (Pairs(lambda i, lr, hr: {"lr": lr[None], "hr": hr}), ("leave the batch out",)),
    "size": (Pairs(lambda i, lr, hr: {"lr": lr, "hr": hr[:, 4:, 4:]}), ("scale=2", "(3, 32, 32)")),
    "swapped": (Pairs(lambda i, lr, hr: {"lr": hr, "hr": lr}), ("(3, 64, 64)",)),
    "sizes": (
        Pairs(lambda i, lr, hr: {"lr": lr[:, i % 2 :, i % 2 :], "hr": hr[:, i % 2 * 2 :, i % 2 * 2 :]}),
        ("equal sizes",),
    ),
    "file": (Pairs(lost), ("pair 0", "photos/7.png")),
    "empty": (Pairs(count=0), ("no pairs",)),
    "one": (Pairs(count=1), ("1 pair(s)", "at least 2")),
    "small": (Pairs(lambda i, lr, hr: {"lr": lr[:, :6, :6], "hr": hr[:, :12, :12]}), ("12x12", "15x15")),
    "iterable": (Streamed(), ("IterableDataset", "__getitem__")),
    "no length": (Unsized(), ("without __len__",)),
}


def read_all(dataset) -> None:
    pairs = PairDataset(dataset, scale=2)
    HeldOutPairs(pairs, 1, 2)
    pairs.__getitems__(range(38))


@pytest.mark.parametrize("kind", PAIRS)
def test_a_wrong_pair_gets_an_error_that_states_the_facts(kind):
    dataset, facts = PAIRS[kind]
    with pytest.raises((ConfigError, DataError)) as error:
        read_all(dataset)
    assert [fact for fact in facts if fact not in str(error.value)] == [], error.value


def test_a_pair_depends_only_on_the_seed_and_the_sample_number():
    torch.manual_seed(1)
    pairs = PairDataset(Pairs(), scale=2, seed=3)
    state = torch.get_rng_state()
    first = pairs.__getitems__([0, 1, 50])
    assert torch.equal(torch.get_rng_state(), state)
    again = pairs.__getitems__([50, 1])
    assert torch.equal(first["lr"][[2, 1]], again["lr"])
    assert not torch.equal(first["lr"][0], first["lr"][1])
    assert {int(name) for name in pairs.__getitems__(range(38))["name"]} == set(range(38))


def test_pairs_in_uint8_and_in_floats_train_alike():
    def eight_bits(index, lr, hr):
        return {"lr": (lr * 255).round().to(torch.uint8), "hr": (hr * 255).round().to(torch.uint8)}

    def floats(index, lr, hr):
        return {key: value.float() / 255 for key, value in eight_bits(index, lr, hr).items()}

    losses = []
    for change in (eight_bits, floats):
        module = tiny.sr_module()
        batch = PairDataset(Pairs(change), scale=2).__getitems__([0, 1])
        losses.append(float(module.training_step(batch, 0).detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class _Net(tiny.TinyNet):
    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, lr):
        return self.change(super().forward(lr))


class _Loss(nn.Module):
    def forward(self, sr, hr):
        return (sr - hr).abs().mean(dim=(1, 2, 3))


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"network": _Net(lambda sr: sr[..., ::2, ::2])}, ("_Net returns (1, 3, 16, 16)", "(1, 3, 32, 32)")),
        ({"network": _Net(lambda sr: [sr])}, ("_Net returns list", "tensor")),
        ({"loss": _Loss()}, ("loss: _Loss returns a tensor (1,)", ".mean()")),
        ({"scale": 3}, ("TinyNet returns (1, 3, 32, 32)", "(1, 3, 48, 48)")),
    ],
)
def test_a_network_or_loss_that_returns_something_else_is_refused_before_the_training(settings, facts):
    with pytest.raises(SRLabError) as error:
        build.check_fit(tiny.sr_module(**settings), PairDataset(Pairs(), scale=2))
    assert [fact for fact in facts if fact not in str(error.value)] == [], error.value


def write_new(name: str, at: str = "mypkg") -> None:
    new.run(NewConfig.model_construct(name=name, at=at), Path(), [])


@pytest.mark.usefixtures("own_sr")
def test_a_new_network_trains_by_the_printed_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_new("my_net")
    command = re.search(r"steps: +python -m sr_lab (.*)", capsys.readouterr().out)
    assert command is not None
    done = run(tmp_path, *shlex.split(command[1]), *FAST, "scale=2")
    assert done.returncode == 0, done.stderr
    assert "│ my_net " in done.stdout
    monkeypatch.syspath_prepend(str(tmp_path))
    checked = runpy.run_path("mypkg/test_my_net.py")
    checked["test_every_weight_has_a_gradient"]()
    checked["test_the_result_is_scale_times_as_large"](3)


def test_a_new_network_passes_the_linter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_new("my_net")
    settings = ("--no-cache", "--config", str(EXAMPLE.parents[1] / "pyproject.toml"), "mypkg")
    for words in (("check",), ("format", "--check")):
        subprocess.run([sys.executable, "-m", "ruff", *words, *settings], check=True)


@pytest.mark.slow
def test_a_new_network_passes_strict_type_checks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_new("my_net")
    subprocess.run([sys.executable, "-m", "mypy", "--strict", "mypkg"], check=True)


def test_a_new_network_overwrites_nothing_and_keeps_the_files_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_new("one")
    Path("mypkg/README.md").write_text("mine")
    write_new("two")
    assert Path("mypkg/README.md").read_text() == "mine"
    before = {path: path.read_bytes() for path in Path("mypkg").rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"mypkg/one\.py, .* exist; choose another name, or remove them"):
        write_new("one")
    assert {path: path.read_bytes() for path in Path("mypkg").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("name", "at", "fact"),
    [
        ("imdn", "mypkg", "model=imdn is already a network of sr_lab"),
        ("my-net", "mypkg", "'my-net'"),
        ("2net", "mypkg", "no digit first"),
        ("class", "mypkg", "not a Python keyword"),
        ("MyNet", "mypkg", "write name=mynet"),
        ("conf", "mypkg", "another file of the package"),
        ("net", "torch", "at: 'torch'"),
        ("net", "a/b", "at: must be a name"),
        ("net", "..", "at: must be a name"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(name, at, fact, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(fact)):
        write_new(name, at)
    assert list(tmp_path.iterdir()) == []
