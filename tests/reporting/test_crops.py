"""The figure of zoomed crops, whose pixels must equal those of the images."""

import csv
import re
import unittest
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_lab.reporting import crops, saved_images
from sr_lab.reporting.crops import Box, Comparison
from sr_lab.reporting.saved_images import Picture
from tests.pictures import hr_image, run_folder

STEM = "crops_Set5_one_x4"


@pytest.fixture(name="picture", scope="module")
def _picture(tmp_path_factory) -> Picture:
    root = tmp_path_factory.mktemp("runs")
    runs = [run_folder(root, "first", psnr=30.004), run_folder(root, "second", psnr=31.5)]
    return saved_images.find(runs)[0]


@pytest.fixture(name="written", scope="module")
def _written(picture, tmp_path_factory) -> Path:
    """Folder with all files of a written figure."""
    return crops.write(tmp_path_factory.mktemp("crops"), picture).parent


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


def places(figure: np.ndarray, block: np.ndarray) -> list[tuple[int, int]]:
    """Positions at which a figure contains exactly the pixels of a block."""
    height, width = block.shape[:2]
    corner = (figure[: -height + 1, : -width + 1] == block[0, 0]).all(axis=2)
    corner &= (figure[height - 1 :, width - 1 :] == block[-1, -1]).all(axis=2)
    return [
        (int(top), int(left))
        for top, left in np.argwhere(corner)
        if np.array_equal(figure[top : top + height, left : left + width], block)
    ]


def zoomed(file: Path, box: Box, zoom: int) -> np.ndarray:
    return box.cut(saved_images.load(file)).repeat(zoom, 0).repeat(zoom, 1)


def test_every_crop_in_the_figure_equals_the_image_pixel_by_pixel(picture, written):
    box = Comparison.of(picture).window()
    shown = pixels(written / f"{STEM}.png")
    files = [picture.hr, *(result.file for result in picture.results)]
    (hr,), (bicubic,), (first,), (second,) = (places(shown, zoomed(file, box, 4)) for file in files)
    # Two rows of two cells, two pixels apart, with two lines of text below each.
    assert (bicubic[0], second[0]) == (hr[0], first[0]) == (0, 4 * 48 + 56 + 2)
    assert (first[1], second[1] - first[1]) == (hr[1], 4 * 48 + 2)
    assert bicubic[1] == second[1]


def test_the_window_is_where_the_methods_errors_differ_most(tmp_path):
    run = run_folder(tmp_path, "first", images=("one",), size=(96, 128))
    (picture,) = saved_images.find([run])
    sr = hr_image("one", 96, 128)
    sr[40:60, 72:92] ^= 255
    Image.fromarray(sr).save(picture.results[1].file)
    Image.fromarray(hr_image("one", 96, 128)).save(picture.results[0].file)
    assert Comparison.of(picture).window(20) == Box(left=72, top=40, width=20, height=20)


@pytest.mark.parametrize("size", [1, 17, 50, 1000])
def test_the_chosen_window_is_on_the_lr_grid_and_inside_the_image(picture, size):
    box = Comparison.of(picture).window(size)
    assert not any(value % 4 for value in (box.left, box.top, box.width, box.height))
    assert box.left + box.width <= 80
    assert box.top + box.height <= 60
    assert min(box.width, box.height) >= 4


def test_the_figure_is_written_with_its_crops_and_their_coordinates(picture, written):
    box = Comparison.of(picture).window()
    wanted = {f"{STEM}.{kind}" for kind in ("png", "pdf", "tex", "csv")} | {f"{STEM}_whole.png"}
    names = ("HR", "bicubic", "first", "second")
    assert {path.name for path in written.iterdir()} == wanted | {f"{STEM}_crop_{name}.png" for name in names}
    rows = list(csv.DictReader((written / f"{STEM}.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == list(names)
    place = [str(value) for value in (box.left, box.top, box.width, box.height)]
    assert [rows[1][key] for key in ("left", "top", "width", "height", "rule")] == [*place, "auto"]
    assert float(rows[3]["psnr_y"]) == 31.5
    assert np.array_equal(
        pixels(written / f"{STEM}_crop_second.png"), zoomed(picture.results[2].file, box, 4)
    )


def test_the_pdf_contains_text_instead_of_outlines(written):
    pdf = (written / f"{STEM}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Type0" in pdf  # a TrueType font


def test_latex_has_the_crops_in_a_table_with_the_best_bold_and_the_second_underlined(written):
    text = (written / f"{STEM}.tex").read_text()
    assert r"\underline{30.00}/\textbf{0.9000} & \textbf{31.50}/\textbf{0.9000} \\" in text
    named = re.findall(r"includegraphics[^{]*{([^}]*)}", text)
    assert len(named) == 6  # the figure as one file, the whole image, four crops
    assert all((written / name).is_file() for name in named)


def test_long_names_stay_inside_their_cells_and_special_characters_are_escaped(tmp_path):
    names = ("50%_of_$x$", "W" * 40)
    runs = [run_folder(tmp_path, name, images=(f"a_b{'w' * 70}",)) for name in names]
    (picture,) = saved_images.find(runs)
    with unittest.TestCase().assertNoLogs(level="INFO"):
        file = crops.write(tmp_path / "crops", picture)
    text = file.with_suffix(".tex").read_text()
    assert r"50\%\_of\_\$x\$" in text
    assert rf"a\_b{'w' * 70} from Set5" in text
    shown = pixels(file)
    (hr,) = places(shown, zoomed(picture.hr, Comparison.of(picture).window(), 4))
    left, width = hr[1], 4 * 48
    assert (shown[width : width + 28, left + width : left + width + 2] == 255).all()  # between the cells
    for line in (shown[width : width + 28], shown[-56:]):
        assert (line[:, left - 4] == 255).all()  # between the whole image and the cells


def test_bicubic_and_the_last_six_of_many_methods_are_shown(tmp_path):
    runs = [run_folder(tmp_path, f"method {n}", images=("one",)) for n in range(9)]
    (picture,) = saved_images.find(runs)
    file = crops.write(tmp_path / "crops", picture)
    rows = csv.DictReader(file.with_suffix(".csv").read_text().splitlines())
    shown = ["HR", "bicubic", *(f"method {n}" for n in range(3, 9))]
    assert [row["method"] for row in rows] == shown
    (corner, *_) = places(pixels(file), zoomed(picture.hr, Comparison.of(picture).window(), 4))
    assert pixels(file).shape[1] - corner[1] == 4 * (4 * 48 + 2) - 2  # two rows of four


def test_the_image_on_which_methods_differ_most_is_chosen_in_each_set(tmp_path):
    runs = [run_folder(tmp_path, "a", set_name=name, images=("one", "two")) for name in ("Set5", "Set14")]
    assert [(p.set_name, p.image) for p in crops.most_different(saved_images.find(runs))] == [
        ("Set5", "two"),
        ("Set14", "two"),
    ]


def test_unusual_names_become_safe_and_distinct_file_names():
    odd = ["../../etc", "a/b", "a_b", "a b", "<script>", "", "x" * 300, ".", "ü"]
    made = [saved_images.safe(name) for name in odd]
    assert len(set(made)) == len(odd)
    assert all("/" not in name and not name.startswith(".") and 0 < len(name) < 110 for name in made)
    assert saved_images.safe("img_012") == "img_012"


def test_runs_with_the_same_name_get_distinct_names(tmp_path):
    runs = [run_folder(tmp_path, "a", seed=seed) for seed in (0, 1)]
    assert saved_images.names(runs) == ["seed 0", "seed 1"]
    assert [result.name for result in saved_images.find(runs)[0].results] == [
        *("bicubic", "seed 0", "seed 1")
    ]


def test_an_image_that_a_run_has_not_saved_is_left_out(tmp_path):
    run = run_folder(tmp_path, "a")
    for file in (run.path / "images" / "Set5").glob("one.*"):
        file.unlink()
    assert [picture.image for picture in saved_images.find([run])] == ["two"]
