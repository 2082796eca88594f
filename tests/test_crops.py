"""The zoomed-crop figure: its pixels are the images' pixels."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from sr_lab.errors import ConfigError
from sr_lab.reporting import crops, pictures
from sr_lab.reporting.crops import Box
from sr_lab.reporting.pictures import Picture
from tests.pictures import hr_image, run_folder


@pytest.fixture(name="picture")
def _picture(tmp_path) -> Picture:
    runs = [run_folder(tmp_path, "first", psnr=30.004), run_folder(tmp_path, "second", psnr=31.5)]
    return pictures.find(runs)[0]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_every_crop_of_the_figure_is_the_image_pixel_by_pixel(picture):
    box = Box(left=8, top=20, width=24, height=32)
    made = crops.draw(picture, crop=box)
    shown = pixels(made.png)
    sources = {"HR": picture.hr} | {result.name: result.file for result in picture.results}
    assert [cell.name for cell in made.cells] == list(sources)
    for cell in made.cells:
        enlarged = box.cut(pictures.load(sources[cell.name])).repeat(cell.zoom, 0).repeat(cell.zoom, 1)
        height, width = enlarged.shape[:2]
        found = shown[cell.top : cell.top + height, cell.left : cell.left + width]
        assert np.array_equal(found, enlarged), cell.name
    assert made.cells[0].zoom == 6


def test_cells_are_two_pixels_apart(picture):
    box = Box(0, 0, 16, 16)
    first, second, *_ = crops.draw(picture, crop=box).cells
    assert second.left - first.left == 16 * first.zoom + 2


def test_the_window_is_where_the_methods_errors_vary_most(tmp_path):
    run = run_folder(tmp_path, "first", images=("one",), size=(96, 128))
    (picture,) = pictures.find([run])
    sr = hr_image("one", 96, 128)
    sr[40:60, 72:92] ^= 255
    Image.fromarray(sr).save(picture.results[1].file)
    Image.fromarray(hr_image("one", 96, 128)).save(picture.results[0].file)
    assert crops.choose(picture, size=20) == Box(left=72, top=40, width=20, height=20)


@pytest.mark.parametrize("size", [1, 17, 50, 1000])
def test_the_chosen_window_is_on_the_lr_grid_and_inside(picture, size):
    box = crops.choose(picture, size=size)
    assert not any(value % 4 for value in (box.left, box.top, box.width, box.height))
    assert box.left + box.width <= 80
    assert box.top + box.height <= 60
    assert min(box.width, box.height) >= 4


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (Box(1, 0, 8, 8), "not on the LR grid; give multiples of the scale 4"),
        (Box(0, 0, 8, 10), "not on the LR grid"),
        (Box(76, 0, 8, 8), "does not lie in the image of 80x60 pixels"),
        (Box(0, 0, 0, 8), "does not lie in the image"),
    ],
)
def test_a_box_that_does_not_fit_is_refused(picture, box, message):
    with pytest.raises(ConfigError, match=message):
        crops.draw(picture, crop=box)


def test_an_unknown_method_is_refused_with_those_that_there_are(picture):
    with pytest.raises(ConfigError, match="no method 'third' for one; allowed: bicubic, first, second"):
        crops.draw(picture, methods=["third"])


def test_the_files_lie_beside_each_other_with_their_coordinates(picture, tmp_path):
    file = crops.write(tmp_path / "out", picture, crop=Box(8, 20, 24, 32), methods=["second", "first"])
    names = {path.name for path in file.parent.iterdir()}
    stem = "crops_Set5_one_x4"
    wanted = {f"{stem}.{kind}" for kind in ("png", "pdf", "tex", "csv")}
    assert names == wanted | {f"{stem}_{name}.png" for name in ("HR", "second", "first")}
    rows = list(csv.DictReader((file.parent / f"{stem}.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["HR", "second", "first"]
    assert [rows[1][key] for key in ("left", "top", "width", "height", "rule")] == [
        "8",
        "20",
        "24",
        "32",
        "given",
    ]
    assert float(rows[1]["psnr_y"]) == 31.5
    single = np.asarray(Image.open(file.parent / f"{stem}_second.png"))
    assert np.array_equal(single, pictures.load(picture.results[2].file)[20:52, 8:32])


def test_the_pdf_holds_text_and_no_outlines(picture):
    pdf = crops.draw(picture).pdf
    assert pdf.startswith(b"%PDF")
    assert b"/Type0" in pdf  # a TrueType font


def test_latex_has_a_subfloat_for_each_cell_best_bold_second_underlined(picture):
    tex = crops.draw(picture).latex
    assert tex.count(r"\subfloat") == 4
    assert r"second\\\textbf{31.50}/\textbf{0.9000}" in tex
    assert r"first\\\underline{30.00}/\textbf{0.9000}" in tex


def test_latex_prints_names_as_they_stand(tmp_path):
    run = run_folder(tmp_path, "50%_of_$x$", images=("a_b",))
    (picture,) = pictures.find([run])
    tex = crops.draw(picture).latex
    assert r"50\%\_of\_\$x\$" in tex
    assert r"a\_b from Set5" in tex


def test_odd_names_are_safe_file_names_and_stay_apart():
    odd = ["../../etc", "a/b", "a_b", "a b", "<script>", "", "x" * 300, ".", "ü"]
    made = [pictures.safe(name) for name in odd]
    assert len(set(made)) == len(odd)
    assert all("/" not in name and not name.startswith(".") and 0 < len(name) < 110 for name in made)
    assert pictures.safe("img_012") == "img_012"


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [run_folder(tmp_path, "a", seed=seed) for seed in (0, 1)]
    assert pictures.names(runs) == ["a (seed 0)", "a (seed 1)"]
    assert [result.name for result in pictures.find(runs)[0].results] == [
        "bicubic",
        "a (seed 0)",
        "a (seed 1)",
    ]


def test_a_run_without_pictures_has_none(tmp_path):
    run = run_folder(tmp_path, "a")
    for file in (run.path / "images" / "Set5").glob("one.*"):
        file.unlink()
    assert [picture.image for picture in pictures.find([run])] == ["two"]
