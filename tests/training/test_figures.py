"""The saved results of an interrupted test are used only if complete and measured in the same way."""

import json
import math

import pytest

from sr_lab.training.figures import kept

BY = {"settings": {"scale": 4, "sets": ["A"]}, "code": {"sr_lab.protocol": "0123"}, "device": "CPU"}
ROW = {
    "set_name": "A",
    "place": 1,
    "image": "b",
    "psnr_y": 0.1 + 0.2,
    "ssim_y": 0.9,
    "bicubic_psnr_y": math.inf,
    "bicubic_ssim_y": 1.0,
    "tiled": None,
    "perceptual": {"lpips": 0.25},
}


def content(**changed: object) -> str:
    return json.dumps({"by": BY, "wall_time_s": 2.5, "images": [ROW]} | changed)


def test_figures_are_read_as_they_were_written(tmp_path):
    other = json.loads(content(images=[ROW | {"place": 0}], wall_time_s=3.0))
    (tmp_path / "0").write_text(content())
    (tmp_path / "1").write_text(json.dumps(other))
    found = kept([tmp_path / "0", tmp_path / "1"], BY)
    assert found.rows["A", 1].model_dump() == ROW
    assert set(found.rows) == {("A", 0), ("A", 1)}
    assert (found.wall_time_s, found.differing) == (3.0, ())


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{", content()[:-20], content(images=[ROW | {"psnr_y": "30"}]), content(images=[{}])),
        *(content(wall_time_s=None), content(more=1), "[" * 100_000),
    ],
)
def test_a_damaged_file_has_no_figures(tmp_path, text):
    (tmp_path / "0").write_text(text)
    found = kept([tmp_path / "0", tmp_path / "missing"], BY)
    assert (found.rows, found.differing) == ({}, ())


@pytest.mark.parametrize(
    ("key", "value"),
    [("settings", {"scale": 3, "sets": ["A"]}), ("code", {}), ("device", "a GPU"), ("device", None)],
)
def test_figures_that_were_measured_differently_do_not_count(tmp_path, key, value):
    (tmp_path / "0").write_text(content(by=BY | {key: value}))
    (tmp_path / "1").write_text(content(images=[ROW | {"place": 0}]))
    found = kept([tmp_path / "0", tmp_path / "1"], BY)
    assert set(found.rows) == {("A", 0)}
    assert found.differing == (key,)
