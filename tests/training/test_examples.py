from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sr_lab.ops.resize import mod_crop
from sr_lab.reporting import saved_images
from sr_lab.training.examples import CAPTION, ExampleImages, not_kept
from sr_lab.training.lit_module import Measured
from tests import tiny

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


def example(folder: Path, *, size: int = 8, height: int = 24, width: int = 30, channels: int = 3) -> Measured:
    """Save the strip for one random image below ``folder``."""
    torch.manual_seed(0)
    hr = torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8)
    outputs: Measured = {
        "lr": tiny.PROTOCOL.make_lr(hr, 2),
        "bicubic": torch.rand(1, 3, height, width, dtype=torch.float64),
        "sr": torch.rand(1, channels, height, width),
        "set_name": "Set",
        "image": "photo",
        "figures": torch.tensor([30.0, 0.9, 29.0, 0.8]),
    }
    module, trainer, watcher = tiny.sr_module(), tiny.trainer(folder), ExampleImages(folder, size=size)
    watcher.on_test_start(trainer, module)
    watcher.on_test_batch_end(trainer, module, outputs, {"hr": hr, "place": 0, "of": 9}, 0)
    watcher.on_test_end(trainer, module)
    return outputs | {"hr": hr}


def panes(file: Path, size: int) -> list[np.ndarray]:
    """Split a strip into its five crops, with two white columns between neighbours."""
    pixels = np.asarray(Image.open(file))
    assert pixels.shape == (CAPTION + size, 5 * size + 8, 3)
    pixels = pixels[CAPTION:]
    for number in range(1, 5):
        assert (pixels[:, number * (size + 2) - 2 : number * (size + 2)] == 255).all()
    return [pixels[:, number * (size + 2) : number * (size + 2) + size] for number in range(5)]


def middle(image: Tensor, top: int, left: int, size: int) -> np.ndarray:
    """A crop of an image in 8-bit pixels."""
    crop = image[0, :, top : top + size, left : left + size].float()
    return (crop.clamp(0, 1) * 255 + 0.5).floor().byte().permute(1, 2, 0).numpy()


def test_the_strip_shows_the_middle_of_lr_bicubic_sr_hr_and_error(tmp_path):
    shown = example(tmp_path)
    lr, bicubic, sr, hr, error = panes(tmp_path / "Set_photo.png", 8)
    top, left = 8, 8  # (24 - 8) / 2: the 24x30 image is cropped to a multiple of 24
    assert np.array_equal(hr, middle(shown["hr"] / 255, top, left, 8))
    assert np.array_equal(sr, middle(shown["sr"], top, left, 8))
    assert np.array_equal(bicubic, middle(shown["bicubic"], top, left, 8))
    small = middle(shown["lr"], top // 2, left // 2, 4)
    assert np.array_equal(lr, small.repeat(2, axis=0).repeat(2, axis=1))
    assert np.array_equal(error, middle((shown["sr"] - shown["hr"] / 255).abs() * 4, top, left, 8))


def test_every_image_of_a_strip_has_a_caption_where_there_is_room(tmp_path):
    example(tmp_path, size=120, height=120, width=120)
    captions = np.asarray(Image.open(tmp_path / "Set_photo.png"))[:CAPTION]
    assert [bool((captions[:, n * 122 : n * 122 + 120] < 128).any()) for n in range(5)] == [True] * 5
    example(tmp_path, size=8)
    assert (np.asarray(Image.open(tmp_path / "Set_photo.png"))[:CAPTION, 10:18] == 255).all()


def test_a_crop_is_not_larger_than_the_image(tmp_path):
    example(tmp_path, size=1000, height=22)
    assert len(panes(tmp_path / "Set_photo.png", 22)) == 5


@pytest.mark.parametrize(("height", "width"), [(95, 119), (96, 121), (100, 151)])
def test_the_strip_shows_the_same_position_at_each_scale(tmp_path, height, width):
    photo = tiny.Images("Set", 1, height=height, width=width).hr[0]
    crops = []
    for scale in (2, 3, 4, 8):
        hr = mod_crop(photo, scale)[None]
        outputs: Measured = {
            "lr": tiny.PROTOCOL.make_lr(hr, scale),
            "bicubic": torch.rand(hr.shape),
            "sr": torch.rand(hr.shape),
            "set_name": "Set",
            "image": str(scale),
            "figures": torch.tensor([30.0, 0.9, 29.0, 0.8]),
        }
        module = tiny.sr_module(scale=scale, network=tiny.TinyNet(scale=scale))
        trainer, callback = tiny.trainer(tmp_path), ExampleImages(tmp_path, size=50)
        callback.on_test_start(trainer, module)
        callback.on_test_batch_end(trainer, module, outputs, {"hr": hr, "place": 0, "of": 9}, 0)
        callback.on_test_end(trainer, module)
        crops.append(panes(tmp_path / f"Set_{scale}.png", 50)[3])
    assert all(np.array_equal(crop, crops[0]) for crop in crops)


@pytest.mark.parametrize(("kind", "factor"), [("lr", 1), ("bicubic", 1), ("sr", 1), ("hr", 255)])
def test_the_first_images_are_saved_complete_as_they_were_measured(tmp_path, kind, factor):
    kept = example(tmp_path)
    shown = np.asarray(Image.open(saved_images.place(tmp_path, "Set", "photo", kind)))
    height, width = kept[kind].shape[-2:]
    assert shown.shape == (height, width, 3)
    assert np.array_equal(shown, (kept[kind][0].float() / factor * 255 + 0.5).byte().permute(1, 2, 0).numpy())


@pytest.mark.parametrize(("count", "kept"), [(5, 5), (6, 1)])
def test_all_images_of_a_small_set_are_saved(tmp_path, count, kept):
    images = tiny.Images("A", count)
    tiny.trainer(tmp_path, callbacks=[ExampleImages(tmp_path / "images", keep=1, size=8)]).test(
        tiny.sr_module(test=[images]), datamodule=tiny.data(test=[images]), verbose=False
    )
    assert len(list((tmp_path / "images" / "A").glob("*.sr.png"))) == kept


def test_a_luma_network_gets_a_strip_too(tmp_path):
    example(tmp_path, channels=1)
    assert (tmp_path / "Set_photo.png").is_file()


@pytest.mark.parametrize(("count", "shown"), [(1, ["A0", "B0"]), (3, ["A0", "A1", "B0", "B1"])])
def test_the_first_images_of_each_set_get_strips(tmp_path, count, shown):
    sets = [tiny.Images("A", 2), tiny.Images("B", 2)]
    tiny.trainer(tmp_path, callbacks=[ExampleImages(tmp_path / "images", keep=count, size=8)]).test(
        tiny.sr_module(test=sets), datamodule=tiny.data(test=sets), verbose=False
    )
    names = sorted(file.name for file in (tmp_path / "images").glob("*.png"))
    assert names == [f"{name[0]}_image{name[1]}.png" for name in shown]


@pytest.mark.parametrize(
    ("keep", "strips", "whole"),
    [
        (0, [], []),
        (["image1"], ["A_image1.png", "B_image1.png"], ["image1"]),
        (["Image-3"], ["B_image3.png"], ["image3"]),
    ],
)
def test_no_image_or_the_named_images_are_kept(tmp_path, keep, strips, whole):
    sets = [tiny.Images("A", 2), tiny.Images("B", 4)]
    tiny.trainer(tmp_path, callbacks=[ExampleImages(tmp_path / "images", keep=keep, size=8)]).test(
        tiny.sr_module(test=sets), datamodule=tiny.data(test=sets), verbose=False
    )
    assert sorted(file.name for file in (tmp_path / "images").glob("*.png")) == strips
    found = {file.name.partition(".")[0] for file in (tmp_path / "images").glob("*/*.sr.png")}
    assert sorted(found) == whole
    assert not_kept(tmp_path / "images", ["image1", "image9"]) == [*({"image1"} - set(whole)), "image9"]
