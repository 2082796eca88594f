"""The zoomed-crop figure: its pixels are the images' pixels."""

import csv
import io
import re

import numpy as np
import pytest
from matplotlib.cm import cividis
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


def test_drawing_says_nothing_in_the_log(picture, caplog):
    with caplog.at_level("INFO"):
        crops.draw(picture)
    assert caplog.records == []


def test_long_names_stay_inside_their_cells(tmp_path):
    runs = [run_folder(tmp_path, name, images=("w" * 70,)) for name in ("Baseline+proposed", "W" * 40)]
    (picture,) = pictures.find(runs)
    made = crops.draw(picture, crop=Box(0, 0, 24, 24))
    shown, cells = pixels(made.png), {cell.name: cell for cell in made.cells}
    lines = shown[192:220]  # the names below the first row
    for name in ("bicubic", "Baseline+proposed"):
        assert lines[:, cells[name].left - 1].min() == 255, name
    assert (shown[-56:, cells["W" * 40].left - 1] == 255).all()
    assert (shown[-56:, cells["HR"].left - 4] == 255).all()


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


def test_a_second_box_and_errors_stand_below_each_crop_pixel_by_pixel(picture):
    first, second = Box(8, 20, 24, 24), Box(40, 8, 24, 24)
    made = crops.draw(picture, crop=first, second=second, errors=True)
    shown = pixels(made.png)
    sources = {"HR": picture.hr} | {result.name: result.file for result in picture.results}
    hr = pictures.load(picture.hr).astype(float)
    assert [(cell.name, cell.kind) for cell in made.cells] == [
        *(("HR", "crop"), ("HR", "second")),
        *((name, kind) for name in list(sources)[1:] for kind in ("crop", "second", "error")),
    ]
    for cell in made.cells:
        image = pictures.load(sources[cell.name])
        if cell.kind == "error":
            error = first.cut(np.abs(image - hr).mean(axis=2)) / 25.5
            wanted = (cividis(np.minimum(error, 1))[..., :3] * 255).round()
        else:
            wanted = {"crop": first, "second": second}[cell.kind].cut(image)
        enlarged = wanted.repeat(cell.zoom, 0).repeat(cell.zoom, 1)
        height, width = enlarged.shape[:2]
        found = shown[cell.top : cell.top + height, cell.left : cell.left + width]
        # A level between two of the 256 may be rounded either way.
        assert np.abs(found - enlarged.astype(float)).max() <= (2 if cell.kind == "error" else 0), cell


def test_frames_are_red_and_blue_and_outside_of_the_crops(picture):
    made = crops.draw(picture, crop=Box(8, 20, 24, 24), second=Box(40, 8, 24, 24))
    shown = pixels(made.png).astype(int)
    for cell in made.cells:
        above = shown[cell.top - 1, cell.left + 20] if cell.top else shown[cell.top + 20, cell.left - 1]
        red, _, blue = above
        assert (red > blue + 60) if cell.kind == "crop" else (blue > red + 60)


def test_the_second_window_is_chosen_beside_the_first(tmp_path):
    run = run_folder(tmp_path, "first", images=("one",), size=(96, 128))
    (picture,) = pictures.find([run])
    sr = hr_image("one", 96, 128)
    sr[40:60, 72:92] ^= 255
    sr[4:20, 8:24] ^= 127
    Image.fromarray(sr).save(picture.results[1].file)
    Image.fromarray(hr_image("one", 96, 128)).save(picture.results[0].file)
    made = crops.draw(picture, crop=Box(72, 40, 20, 20), second="auto")
    assert (made.second.width, made.second.height) == (20, 20)
    assert made.second.left <= 8 < 24 <= made.second.left + 20
    assert made.second.top <= 4 < 20 <= made.second.top + 20


def test_a_second_box_of_another_size_is_refused(picture):
    with pytest.raises(ConfigError, match="the second box must be as large as the first"):
        crops.draw(picture, crop=Box(0, 0, 24, 24), second=Box(0, 24, 8, 8))


def test_second_crops_and_errors_are_files_that_the_latex_names(picture, tmp_path):
    file = crops.write(tmp_path, picture, crop=Box(8, 20, 24, 24), second="auto", errors=True)
    named = re.findall(r"includegraphics[^{]*{([^}]*)}", file.with_suffix(".tex").read_text())
    assert len(named) == 2 + 3 * 3
    assert all((tmp_path / name).is_file() for name in named)
    rows = list(csv.DictReader(file.with_suffix(".csv").read_text().splitlines()))
    assert [row["rule"] for row in rows if row["method"] == "HR"] == ["given", "auto"]


def test_of_many_methods_bicubic_and_the_last_six_are_shown(tmp_path):
    runs = [run_folder(tmp_path, f"method {n}", images=("one",)) for n in range(9)]
    (picture,) = pictures.find(runs)
    made = crops.draw(picture, crop=Box(0, 0, 8, 8))
    assert [cell.name for cell in made.cells] == ["HR", "bicubic", *(f"method {n}" for n in range(3, 9))]


def test_of_each_set_the_image_that_tells_the_methods_apart_is_taken(tmp_path):
    runs = [run_folder(tmp_path, "a", set_name=name, images=("one", "two")) for name in ("Set5", "Set14")]
    assert [(p.set_name, p.image) for p in crops.striking(pictures.find(runs))] == [
        ("Set5", "two"),
        ("Set14", "two"),
    ]


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
