"""``task=evaluate`` shows its progress, keeps what it has measured, and resumes."""

import json
import re
import shutil
import signal
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sr_lab import files
from sr_lab.config import code
from sr_lab.errors import ConfigError
from sr_lab.metrics import perceptual
from sr_lab.models.imdn import IMDN
from sr_lab.reporting import progress
from sr_lab.run_folder import RunFolder
from sr_lab.runs import measurement
from sr_lab.system.interrupts import Ended
from sr_lab.tasks import evaluate
from sr_lab.training import figures
from sr_lab.training.data_module import RankShare
from sr_lab.training.lit_module import SRModule
from tests.command_line import sr_lab
from tests.composing import compose

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]

SETS = {"Two": 2, "Six": 6}
TOTAL = sum(SETS.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with two test sets, ``data``, and the weights of a small network, ``net.pt``."""
    folder = tmp_path_factory.mktemp("evaluate")
    for name, count in SETS.items():
        hr = folder / "data" / "benchmarks" / name / "HR"
        hr.mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(noise).resize((36 + 2 * number, 40)).save(hr / f"{number}.png")
    torch.manual_seed(0)
    torch.save(IMDN(scale=2, num_feat=16, num_block=1).state_dict(), folder / "net.pt")
    return folder


def arguments(place: Path) -> tuple[str, ...]:
    return (
        *(
            "task=evaluate",
            "model=imdn",
            "+model.num_feat=16",
            "+model.num_block=1",
            "scale=2",
            "trainer=cpu",
        ),
        *(f"ckpt='{place}/net.pt'", f"paths.data_dir='{place}/data'", f"benchmark.sets=[{','.join(SETS)}]"),
    )


def run(place: Path, folder: Path, *more: str) -> dict[str, object]:
    """Evaluate, and return the results without the date and the time taken."""
    overrides = (*arguments(place), *more)
    evaluate.run(measurement.with_measured_identity(compose(*overrides), overrides), folder, overrides)
    values = json.loads((folder / "metrics.json").read_text())
    return {key: value for key, value in values.items() if key not in ("date", "wall_time_s", "hash")}


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.fixture(scope="module")
def whole(place, tmp_path_factory) -> Path:
    """The folder of an evaluation that was not interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(place, folder)
    return folder


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """The images that are measured from now on; the results of each are written at once."""
    found: list[str] = []
    step = SRModule.test_step

    def counted(module: SRModule, batch: dict[str, object], *rest: int) -> object:
        found.extend([str(batch["name"])] if batch["counted"] else [])
        return step(module, batch, *rest)

    monkeypatch.setattr(SRModule, "test_step", counted)
    monkeypatch.setattr(figures, "_INTERVAL", 0.0)
    return found


class Killed(BaseException):
    """Ends a run without giving it time to do anything, as SIGKILL does."""


def killed(place: Path, folder: Path, event: str, number: int, *more: str) -> None:
    """Evaluate until the run is killed, see `killed_at`."""
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, event, number)
        with pytest.raises(Killed):
            run(place, folder, *more)


def killed_at(monkeypatch: pytest.MonkeyPatch, event: str, number: int) -> None:
    """Kill the run at its ``number``th event: before an image, or before or after a file replaces another."""
    seen = 0

    def watched(target: object, name: str, *, after: bool, of: Callable[..., bool]) -> None:
        original = getattr(target, name)

        def call(*given: object, **named: object) -> object:
            nonlocal seen
            counts = of(*given)
            seen += counts
            if counts and seen == number and not after:
                raise Killed
            result = original(*given, **named)
            if counts and seen == number:
                raise Killed
            return result

        monkeypatch.setattr(target, name, call)

    if event == "image":
        watched(SRModule, "test_step", after=False, of=lambda *_: True)
    else:
        kind, _, when = event.partition(" ")
        watched(
            files, "write", after=when == "after", of=lambda path, _: path.name.startswith(kind)
        )  # "figures" or "metrics"


@pytest.mark.parametrize(
    ("event", "number", "left"),
    [
        ("image", 1, TOTAL),
        ("image", 3, TOTAL - 2),
        ("figures before", TOTAL, 1),
        ("figures after", 2, TOTAL - 2),
        ("metrics before", 1, 0),
        ("metrics after", 1, 0),
    ],
)
def test_a_killed_evaluation_resumes_and_gives_the_same_bytes(
    place, whole, tmp_path, steps, event, number, left
):
    killed(place, tmp_path, event, number)
    steps.clear()
    results = run(place, tmp_path)
    assert len(steps) == left
    assert results == run(place, whole)
    assert pictures(tmp_path) == pictures(whole)
    assert event == "metrics after" or not RunFolder(tmp_path).kept_figures()


def test_an_image_without_its_pictures_is_measured_again(place, whole, tmp_path, steps):
    killed(place, tmp_path, "image", TOTAL)
    (tmp_path / "images" / "Six_2.png").unlink(missing_ok=True)  # as if the thread had not written it yet
    steps.clear()
    assert run(place, tmp_path)["images"] == run(place, whole)["images"]
    assert steps == ["2", "5"]
    assert pictures(tmp_path) == pictures(whole)


def test_ctrl_c_keeps_the_figures_that_have_not_been_written_yet(place, tmp_path, steps, monkeypatch):
    monkeypatch.setattr(figures, "_INTERVAL", 1e9)
    step = SRModule.test_step

    def interrupted(module: SRModule, *given: object) -> object:
        if len(steps) == 3:
            raise Ended(signal.SIGINT)
        return step(module, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SRModule, "test_step", interrupted)
        with pytest.raises(Ended):
            run(place, tmp_path)
    steps.clear()
    run(place, tmp_path)
    assert len(steps) == TOTAL - 3


def test_figures_that_were_measured_differently_are_measured_again(place, whole, tmp_path, steps, capsys):
    killed(place, tmp_path, "image", 4)
    (file,) = RunFolder(tmp_path).kept_figures()
    content = json.loads(file.read_text())
    content["by"]["device"] = "another"
    content["images"][0]["psnr_y"] = 99.0
    file.write_text(json.dumps(content))
    steps.clear()
    assert run(place, tmp_path)["images"] == run(place, whole)["images"]
    assert len(steps) == TOTAL
    assert "of the last attempt are measured again, since device is not the same" in capsys.readouterr().out


def test_a_changed_image_starts_a_new_run_that_measures_all_images(place, tmp_path, steps):
    shutil.copytree(place / "data", tmp_path / "data")
    shutil.copy(place / "net.pt", tmp_path)
    killed(tmp_path, tmp_path / "run", "image", 4)
    image = tmp_path / "data" / "benchmarks" / "Six" / "HR" / "5.png"  # not measured yet
    Image.open(image).rotate(180).save(image)
    steps.clear()
    # Without the typed folder, the new digest would give another folder. With equal overrides, this process
    # would take the old digest from its cache.
    run(tmp_path, tmp_path / "run", "explain=false")
    assert len(steps) == TOTAL


def test_a_finished_evaluation_is_shown_without_measuring(place, tmp_path, steps, capsys):
    first = run(place, tmp_path)
    steps.clear()
    capsys.readouterr()
    assert run(place, tmp_path) == first
    assert steps == []
    shown = capsys.readouterr().out
    assert f"already measured: {tmp_path} (resume=never measures it again)" in shown
    assert "PSNR" in shown
    assert f"run folder: {tmp_path}" in shown
    assert run(place, tmp_path, "resume=never")["images"] == first["images"]
    assert len(steps) == TOTAL


def test_named_examples_that_a_finished_evaluation_lacks_are_measured_again(place, tmp_path, steps, capsys):
    def saved() -> set[str]:
        return {path.name for path in (tmp_path / "images").glob("*/*.sr.png")}

    run(place, tmp_path, "examples=['5']")
    assert saved() == {"5.sr.png"}
    steps.clear()
    run(place, tmp_path, "examples=['5']")
    assert steps == []
    run(place, tmp_path, "examples=['4']")
    assert len(steps) == TOTAL
    assert saved() == {"4.sr.png", "5.sr.png"}
    assert "has no pictures of 4; measuring again" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="examples: there is no image 'img_6' in Two, Six"):
        run(place, tmp_path, "examples=[img_6]")
    assert (tmp_path / "metrics.json").is_file()


def test_a_finished_evaluation_measured_by_different_code_is_measured_again(
    place, tmp_path, steps, capsys, monkeypatch
):
    run(place, tmp_path)
    assert {"sr_lab.protocol", "sr_lab.ops.metrics", "sr_lab.ops.resize"} <= code.measuring().keys()
    before = code.measuring()
    monkeypatch.setattr(code, "measuring", lambda: before | {"sr_lab.ops.metrics": "edited"})
    steps.clear()
    run(place, tmp_path)
    assert len(steps) == TOTAL
    assert "was measured by another version of sr_lab.ops.metrics" in capsys.readouterr().out


def test_in_a_pipe_a_line_shows_the_images_the_means_and_the_time_left(
    place, whole, tmp_path, steps, capsys, monkeypatch
):
    monkeypatch.setattr(progress, "_LINE", 0.0)
    psnr = run(place, whole)["test/Two/psnr_y"]
    capsys.readouterr()
    run(place, tmp_path)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[0] for line in lines] == [f"{done}/{TOTAL}" for done in range(1, TOTAL + 1)]
    number = r"\d\.\d{2} dB / -?\d\.\d{4}"
    assert re.fullmatch(
        rf"3/8 images, 0:\d\d left, Six \(1 of 6\) {number}, Two {psnr:.2f} dB / -?0\.\d{{4}}", lines[2]
    ), lines[2]


def test_the_images_in_memory_do_not_grow_with_the_set(place, tmp_path, monkeypatch):
    hr = tmp_path / "data" / "benchmarks" / "Many" / "HR"
    hr.mkdir(parents=True)
    for number in range(30):
        Image.new("RGB", (24, 24), (number, 0, 0)).save(hr / f"{number:02}.png")
    shutil.copy(place / "net.pt", tmp_path)
    images: list[weakref.ref[torch.Tensor]] = []
    most = 0
    item, step = RankShare.__getitem__, SRModule.test_step

    def read(share: RankShare, index: int) -> object:
        batch = item(share, index)
        images.append(weakref.ref(batch["hr"]))
        return batch

    def counted(module: SRModule, *given: object) -> object:
        nonlocal most
        most = max(most, sum(image() is not None for image in images))
        return step(module, *given)

    monkeypatch.setattr(RankShare, "__getitem__", read)
    monkeypatch.setattr(SRModule, "test_step", counted)
    run(tmp_path, tmp_path / "run", "benchmark.sets=[Many]")
    assert len(images) == 30
    assert most <= 3, "the image that is measured, the next one, and one that Lightning has not released yet"


KILLED = """
import os, signal, time
from pathlib import Path
from torch.nn import functional
from torch import nn
from sr_lab.training import figures
figures._INTERVAL = 0.0
left = int(os.environ["LEFT"])

class Net(nn.Module):
    def __init__(self, *, scale: int, upsampler: None = None) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lr):
        global left
        if not lr.is_meta:
            left -= 1
            if left == 0:
                time.sleep(2)  # an image without its pictures, which a thread writes, is measured again
                os.kill(os.getpid(), signal.SIGKILL)
        return functional.interpolate(lr, scale_factor=self.scale)
"""


@pytest.mark.slow
def test_an_evaluation_that_is_killed_again_and_again_finishes_with_the_same_figures(place, tmp_path):
    (tmp_path / "net.py").write_text(KILLED)
    command = (
        *("task=evaluate", "model=bicubic", "model._target_=net.Net", "scale=2", "allow=[net]"),
        *("trainer=cpu", f"paths.data_dir='{place}/data'", f"benchmark.sets=[{','.join(SETS)}]"),
    )
    ends = [sr_lab(tmp_path, *command, LEFT=left) for left in ("2", "3", "4", "0")]
    assert [end.returncode for end in ends] == [-signal.SIGKILL] * 3 + [0], ends[-1].stderr
    assert "resumes: 6 of 8 images are already measured" in ends[-1].stdout
    (folder,) = {path.parent for path in tmp_path.glob("outputs/*/*/metrics.json")}
    other = tmp_path / "other"
    assert sr_lab(tmp_path, *command, f"hydra.run.dir={other}", LEFT="0").returncode == 0
    results = [json.loads((one / "metrics.json").read_text())["images"] for one in (folder, other)]
    assert results[0] == results[1]
    assert pictures(folder) == pictures(other)


@pytest.mark.parametrize(
    ("protocol", "says"),
    [("rgb_uint8", "reach 37.31 dB, as here"), ("rgb_double", "37.31 dB under benchmark.protocol=rgb_uint8")],
)
def test_published_weights_are_compared_with_the_figure_of_their_authors_code(
    tmp_path, data_dir, weights_dir, capsys, protocol, says
):
    ckpt = weights_dir / "IMDN" / "IMDN_RTC_x2.pth"
    given = ("task=evaluate", f"ckpt='{ckpt}'", "benchmark=set5", f"benchmark.protocol={protocol}")
    config = compose(*given, f"paths.data_dir='{data_dir}'", "trainer=cpu")
    evaluate.run(measurement.with_measured_identity(config, given), tmp_path, given)
    assert says in capsys.readouterr().out


class MeanDifference(nn.Module):
    """Stands in for a network that recognises objects."""

    def forward(self, sr: torch.Tensor, hr: torch.Tensor) -> torch.Tensor:
        return (sr - hr).abs().mean()


@pytest.fixture
def differences(monkeypatch) -> None:
    """Replace LPIPS and DISTS by the mean difference, which needs no weights."""
    kinds = {name: perceptual._Kind("", MeanDifference) for name in ("lpips", "dists")}
    monkeypatch.setattr(perceptual, "_KINDS", kinds)
    monkeypatch.setattr(perceptual, "_check_weights", lambda name: None)


@pytest.mark.usefixtures("differences")
def test_lpips_and_dists_have_columns_and_are_resumed(place, tmp_path, monkeypatch, capsys):
    asked = ("perceptual=[lpips,dists]", "columns=[Two,LPIPS,DISTS]")
    monkeypatch.setattr(figures, "_INTERVAL", 0.0)
    killed(place, tmp_path / "killed", "image", 4, *asked)
    resumed = run(place, tmp_path / "killed", *asked)
    capsys.readouterr()
    values = run(place, tmp_path / "whole", *asked)
    assert resumed == values
    images = [image for image in values["images"] if image["set_name"] == "Two"]
    assert values["test/Two/lpips"] == pytest.approx(sum(image["lpips"] for image in images) / 2)
    assert 0 < values["test/Two/lpips"] == values["test/Two/dists"] < 1
    shown = capsys.readouterr().out
    assert "LPIPS" in shown
    assert "DISTS" in shown
    assert f"{values['test/Two/lpips']:.4f}" in shown


@pytest.mark.usefixtures("differences")
def test_lpips_of_a_network_that_returns_luma_is_refused(place, tmp_path):
    asked = ("task=evaluate", "model=bicubic", "scale=2", "trainer=cpu", f"paths.data_dir={place}/data")
    words = (*asked, "benchmark.sets=[Two]", "benchmark.protocol=classic_y", "perceptual=[lpips]")
    with pytest.raises(ConfigError, match=r"perceptual.*luma.*classic_y"):
        evaluate.run(measurement.with_measured_identity(compose(*words), words), tmp_path, words)
