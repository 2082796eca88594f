"""The images in the page: the pixels that were measured, each stored once, in a bounded number."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sr_lab.reporting import page_images, saved_images
from sr_lab.reporting.crops import Box, Comparison
from sr_lab.reporting.page_images import Album
from sr_lab.reporting.saved_images import Picture
from tests.pictures import hr_image, run_folder

# A pixel of noise takes 3 bytes, and a third more in base64.
BYTES_OF_PIXEL = 4.1


def pixels(source: str) -> np.ndarray:
    assert source.startswith("data:image/webp;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGB"))


def stored(albums: list[Album]) -> int:
    return sum(len(shot.source) for album in albums for shot in album.shots)


@pytest.fixture(name="large", scope="module")
def _large(tmp_path_factory) -> Picture:
    """An image of 340x400 pixels whose two results differ most around row 300 and column 340."""
    root = tmp_path_factory.mktemp("runs")
    runs = [run_folder(root, name, images=("one",), size=(340, 400), plots=False) for name in ("a", "b")]
    (picture,) = saved_images.find(runs)
    hr = hr_image("one", 340, 400)
    changed = hr.copy()
    changed[280:320, 320:360] ^= 255
    for result, own in zip(picture.results, (hr, hr, changed), strict=True):
        Image.fromarray(own).save(result.file)
    return picture


def test_a_small_image_is_stored_whole_and_without_loss(tmp_path):
    found = saved_images.find([run_folder(tmp_path, name, plots=False) for name in ("a", "b")])
    made, said = page_images.albums(found)
    assert said == ""
    assert [album.picture.image for album in made] == ["one", "two"]
    for album, picture in zip(made, found, strict=True):
        files = [picture.lr, *(result.file for result in picture.results), picture.hr]
        assert album.overview is None
        for shot, file in zip(album.shots, files, strict=True):
            assert np.array_equal(pixels(shot.source), saved_images.load(file))


def test_every_method_shows_the_part_of_a_large_image_in_which_they_differ_most(large):
    album = page_images.album(large, 128)
    box = album.overview.box
    assert (box.width, box.height) == (album.width, album.height) == (128, 128)
    assert box.left <= 320 <= 360 <= box.left + 128
    assert box.top <= 280 <= 320 <= box.top + 128
    lr, *_, changed, hr = (pixels(shot.source or album.shots[1].source) for shot in album.shots)
    assert np.array_equal(changed, box.cut(saved_images.load(large.results[2].file)))
    small = Box(box.left // 4, box.top // 4, 32, 32)
    assert np.array_equal(lr, small.cut(saved_images.load(large.lr)))
    assert hr.shape == changed.shape


def test_the_overview_is_the_whole_image_and_small(large):
    overview = page_images.album(large, 128).overview
    assert (overview.width, overview.height) == (400, 340)
    assert pixels(overview.source).shape == (340, 400, 3)
    assert len(overview.source) < stored([page_images.album(large, 304)]) / 4


def test_equal_pixels_are_stored_once(large):
    shots = page_images.album(large, 304).shots
    assert [(shot.name, shot.same) for shot in shots] == [
        *(("LR, nearest", ""), ("bicubic", ""), ("a", "bicubic"), ("b", ""), ("HR", "bicubic"))
    ]
    sources = [shot.source for shot in shots if not shot.same]
    assert len(set(sources)) == len(sources) == 3
    assert all(not shot.source for shot in shots if shot.same)


def pictures(folder: Path, *, runs: int, images: int, sets: int = 1) -> list[Picture]:
    """Large pictures of several runs; all share the files of a single run."""
    run = run_folder(folder, "a", images=("one",), size=(400, 500), plots=False)
    (known,) = saved_images.find([run])
    bicubic, own = known.results
    files = []
    for number in range(runs):
        files.append(folder / f"{number}.png")
        changed = saved_images.load(own.file).copy()
        changed[number] ^= 255
        Image.fromarray(changed).save(files[-1])
    return [
        Picture(
            f"Set{number}",
            f"image {image}",
            4,
            known.lr,
            known.hr,
            (
                bicubic,
                *(
                    saved_images.Result(f"run {n}", file, 30 + n * (1 + image) / 10, 0.9)
                    for n, file in enumerate(files)
                ),
            ),
        )
        for number in range(sets)
        for image in range(images)
    ]


@pytest.mark.parametrize(("images", "runs"), [(1, 2), (2, 3), (9, 2)])
def test_the_images_of_each_method_take_a_bounded_number_of_bytes(tmp_path, images, runs):
    made, _ = page_images.albums(pictures(tmp_path, runs=runs, images=images))
    assert stored(made) <= (runs + 2) * page_images._PIXELS * BYTES_OF_PIXEL * 1.05


def test_more_runs_than_can_be_compared_add_no_images(tmp_path):
    made, said = page_images.albums(pictures(tmp_path, runs=14, images=1))
    names = [shot.name for shot in made[0].shots]
    assert names == ["LR, nearest", "bicubic", "run 0", *(f"run {n}" for n in range(3, 14)), "HR"]
    assert "2 runs are left out" in said


def test_if_there_are_many_images_each_set_keeps_those_on_which_the_methods_differ_most(tmp_path):
    made, said = page_images.albums(pictures(tmp_path, runs=2, images=3, sets=4))
    assert [(album.picture.set_name, album.picture.image) for album in made] == [
        *(("Set0", "image 1"), ("Set0", "image 2"), ("Set1", "image 1"), ("Set1", "image 2")),
        *(("Set2", "image 1"), ("Set2", "image 2"), ("Set3", "image 2")),
    ]
    assert "7 of 12 images are shown" in said
    assert {album.width for album in made} == {192}


def test_the_zoomed_crops_are_those_of_the_figure(large):
    strip = page_images.strip(large)
    box = Comparison.of(large).window()
    assert strip.overview.box == box
    assert [name for name, _, _ in strip.cells] == ["HR", "bicubic", "a", "b"]
    for (_, source, _), file in zip(
        strip.cells, [large.hr, *(result.file for result in large.results)], strict=True
    ):
        assert np.array_equal(pixels(source), box.cut(saved_images.load(file)))
    assert "".join(text for text, _ in strip.cells[2][2]) == "30.00/0.9000"
