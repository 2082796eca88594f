"""``task=compare``: the figure of one image, its numbers, and what it refuses."""

import csv
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sr_lab
from sr_lab.checkpoints.opening import build_network
from sr_lab.config.schema import CompareConfig
from sr_lab.config.shorthand import understood
from sr_lab.errors import CheckpointError, ConfigError, DataError, SRLabError
from sr_lab.reporting import crops
from sr_lab.reporting.crops import Box, Comparison
from sr_lab.reporting.latex import escape
from sr_lab.tasks import compare
from tests.composing import compose
from tests.pictures import run_folder

SIZE = (66, 50)  # width and height
WHOLE = "crop=0,0,66,50"
STEM = "img_001_x2_0-0-66-50"


def checkpoint(file: Path, *network: str) -> Path:
    """One of our own checkpoints, of a small network."""
    torch.manual_seed(len(network))
    config = compose(*network)
    state = {f"network.{name}": value for name, value in build_network(config).state_dict().items()}
    record = config.model_dump(include={"model", "upsampler", "strategy", "scale"})
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"sr_lab": record, "state_dict": state}, file)
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Three checkpoints, a test set of one image, and a run folder in ``outputs``."""
    root = tmp_path_factory.mktemp("compare")
    checkpoint(root / "rgb.ckpt", "model=imdn_rtc", "scale=2")
    checkpoint(root / "luma.ckpt", "model=srcnn", "scale=2")
    checkpoint(root / "x3.ckpt", "model=imdn_rtc", "scale=3")
    folder = root / "data" / "benchmarks" / "Tiny" / "HR"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (10, 13, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC).save(folder / "img_001.png")
    run = run_folder(root / "outputs" / "mine", "trained here", scale=2, images=(), plots=False)
    shutil.copy(root / "rgb.ckpt", checkpoint(run.path / "checkpoints" / "best.ckpt", "model=srcnn"))
    return root


def hr_file(place: Path) -> Path:
    return place / "data" / "benchmarks" / "Tiny" / "HR" / "img_001.png"


def config_of(place: Path, *words: str) -> tuple[CompareConfig, list[str]]:
    given = understood(
        [
            *("task=compare", "trainer=cpu"),
            *(f"paths.data_dir={place}/data", f"paths.output_dir={place}/outputs"),
            *(word.replace("@", f"{place}/") for word in words),
        ]
    )
    config = compose(*given)
    assert isinstance(config, CompareConfig)
    return config, given


@dataclass
class Drawn:
    """What a figure would show."""

    comparison: Comparison
    box: Box
    rule: str

    @property
    def names(self) -> list[str]:
        return [method.name for method in self.comparison.methods[1:]]


@pytest.fixture
def draw(place, monkeypatch) -> Callable[..., Drawn]:
    """Run the task without drawing, which takes most of its time."""
    found: list[Drawn] = []

    def write(folder: Path, stem: str, comparison: Comparison, box: Box, *, rule: str) -> list[Path]:
        found.append(Drawn(comparison, box, rule))
        return crops.files_of(folder, stem, [version.name for version in comparison.versions])

    monkeypatch.setattr(crops, "write_figure", write)

    def run_(*words: str) -> Drawn:
        run(place, place / "nowhere", *words)
        return found[-1]

    return run_


def run(place: Path, folder: Path, *words: str) -> None:
    config, given = config_of(place, *words)
    compare.run(config, folder, given)


def rows(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of the csv in a folder by the name of the crop."""
    (file,) = folder.glob("*.csv")
    return {row["method"]: row for row in csv.DictReader(file.read_text().splitlines())}


@pytest.fixture(scope="module")
def written(place, tmp_path_factory) -> Path:
    """A written figure whose window is the whole image."""
    folder = tmp_path_factory.mktemp("figure")
    run(place, folder, "ckpts=[@rgb.ckpt,@luma.ckpt]", "hr=Tiny/img001", WHOLE)
    return folder


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def test_the_figures_are_those_of_the_image_that_the_crop_shows(place, written, tmp_path):
    found = rows(written)
    assert list(found) == ["HR", "bicubic", "IMDN-RTC", "SRCNN"]
    assert {row["set"] for row in found.values()} == {"Tiny"}
    zoom = 4  # a window of about 50 pixels is drawn about 192 pixels wide
    for name in ("bicubic", "IMDN-RTC"):
        sr = pixels(written / f"{STEM}_crop_{name}.png")[::zoom, ::zoom]
        assert sr.shape == (SIZE[1], SIZE[0], 3)
        Image.fromarray(sr).save(tmp_path / "sr.png")
        figures = sr_lab.measure(tmp_path / "sr.png", hr_file(place), scale=2).mean["rgb_uint8"]
        assert float(found[name]["psnr_y"]) == pytest.approx(figures.psnr, abs=1e-6)
        assert float(found[name]["ssim_y"]) == pytest.approx(figures.ssim, abs=1e-6)


def test_a_result_of_luma_is_shown_in_colour(written):
    bicubic, luma = (
        pixels(written / f"{STEM}_crop_{name}.png").astype(float) for name in ("bicubic", "SRCNN")
    )
    red_above_blue = [(image[..., 0] - image[..., 2]).ravel() for image in (bicubic, luma)]
    assert np.corrcoef(red_above_blue)[0, 1] > 0.8


def test_a_figure_is_replaced_only_on_request(place, written):
    words = ("ckpts=[@rgb.ckpt,@luma.ckpt]", "hr=Tiny/img001", WHOLE)
    before, tex = rows(written), written / f"{STEM}.tex"
    tex.write_text("edited by hand")
    with pytest.raises(ConfigError, match="exists; add overwrite=true"):
        run(place, written, *words)
    assert tex.read_text() == "edited by hand"
    run(place, written, *words, "overwrite=true")
    assert tex.read_text() != "edited by hand"
    assert rows(written) == before


def test_a_photo_without_hr_has_no_figures(place, draw):
    drawn = draw("ckpts=@rgb.ckpt", f"input={hr_file(place)}", "crop_size=20")
    assert drawn.comparison.hr is None
    assert drawn.comparison.scores() == [[], []]
    assert drawn.comparison.methods[1].pixels.shape == (2 * SIZE[1], 2 * SIZE[0], 3)
    assert (drawn.rule, drawn.box.width) == ("auto", 20)


def test_given_lr_images_are_measured_against_hr(place, draw, tmp_path):
    hr = Image.open(hr_file(place))
    hr.resize((33, 25), Image.Resampling.NEAREST).save(tmp_path / "lr.png")
    words = ("ckpts=@rgb.ckpt", f"hr={hr_file(place)}")
    given, made = draw(*words, f"input={tmp_path}/lr.png"), draw(*words)
    assert [each.comparison.methods[0].protocol for each in (given, made)] == [
        *("rgb_uint8 on given LR", "rgb_uint8")
    ]
    assert given.comparison.methods[0].psnr < made.comparison.methods[0].psnr
    hr.save(tmp_path / "lr.png")
    with pytest.raises(DataError, match="must be 33x25 pixels"):
        draw(*words, f"input={tmp_path}/lr.png")


def test_finished_training_runs_in_a_folder_come_after_the_checkpoints(draw, capsys):
    words = ("own_runs=@outputs/mine", "hr=Tiny/img_001")
    assert draw("ckpts=@luma.ckpt", *words).names == ["SRCNN", "trained here"]
    assert draw("ckpts=@x3.ckpt", *words).names == ["IMDN-RTC"]
    assert "no finished training run at x3 in" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="sr_lab experiment=imfm/train scale=4"):
        draw("own_runs=@outputs/imfm/train", "scale=4", "hr=Tiny/img_001")


def test_equal_networks_are_told_apart_by_their_weights_or_by_given_names(place, draw):
    shutil.copy(place / "rgb.ckpt", place / "other.ckpt")
    words = ("ckpts=[@rgb.ckpt,@other.ckpt]", "hr=Tiny/img_001")
    assert draw(*words).names == [f"IMDN-RTC ({place}/rgb.ckpt)", f"IMDN-RTC ({place}/other.ckpt)"]
    assert draw(*words, "names=[first,ours]").names == ["first", "ours"]
    with pytest.raises(ConfigError, match="names: got 1 for 2 networks"):
        draw(*words, "names=[a]")
    with pytest.raises(ConfigError, match="'HR' is already in use"):
        draw(*words, "names=[HR,a]")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ckpts=[@rgb.ckpt,@x3.ckpt]", "hr=Tiny/img_001"), "one scale, so leave one out"),
        (("ckpts=@rgb.ckpt",), "hr: no image is given; set hr="),
        (("hr=Tiny/img_001",), "ckpts: no network is given"),
        (
            ("ckpts=@rgb.ckpt", "hr=Tiny/img_001", "crop=60,0,8,8"),
            "crop: the window 60,0,8,8 .* 66x50 pixels",
        ),
        (("ckpts=@rgb.ckpt", "hr=Tiny/img_001", "crop=0,0,0,8"), "crop: the window 0,0,0,8"),
        (("ckpts=@rgb.ckpt", "hr=Tiny/img_001", "crop=1,2,3"), "crop.*at least 4 items"),
        (
            ("ckpts=@rgb.ckpt", "hr=Tiny/img_001", "crop=0,0,8,8", "crop_size=9"),
            "crop_size: is the size of the window",
        ),
        (("ckpts=@rgb.ckpt", "hr=nothing.png"), "hr: there is no file nothing.png"),
        (("ckpts=@rgb.ckpt", "hr=Tiny/img_002"), "hr: in Tiny there is no image 'img_002'; .*'img_001'"),
        (("ckpts=@rgb.ckpt", "hr=B100/78004"), "benchmark B100: there is no folder"),
        (("ckpts=@rgb.ckpt", "scale=3", "hr=Tiny/img_001"), "ckpts: .*has scale=2, got scale=3"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_leaves_no_file(place, tmp_path, words, said):
    with pytest.raises(SRLabError, match=said):
        run(place, tmp_path, *words)
    assert list(tmp_path.iterdir()) == []


def test_names_cannot_run_anything_in_latex_or_a_spreadsheet(place, tmp_path):
    names = ["=1+1", r"\input{x}"]
    config, given = config_of(place, "ckpts=[@rgb.ckpt,@luma.ckpt]", "hr=Tiny/img_001")
    compare.run(config.model_copy(update={"names": names}), tmp_path, given)
    assert "'=1+1," in (tmp_path / "img_001_x2.csv").read_text()
    text = (tmp_path / "img_001_x2.tex").read_text()
    assert escape(names[1]) in text
    assert r"\input" not in text
    assert all(path.parent == tmp_path for path in tmp_path.rglob("*"))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_the_latex_file_is_typeset_in_a_paper_of_two_columns(place, tmp_path):
    run(place, tmp_path, "ckpts=[@rgb.ckpt,@luma.ckpt]", "hr=Tiny/img_001")
    paper = r"\documentclass[twocolumn]{article}\usepackage{graphicx}\begin{document}%s x\end{document}"
    (tmp_path / "paper.tex").write_text(paper % r"\input{img_001_x2.tex}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout
