import gc
import subprocess
import sys
import weakref

import hydra
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import sr_lab
from sr_lab import api
from sr_lab.errors import CheckpointError, ConfigError, DataError
from sr_lab.inference.upscaling import upscale_batch
from sr_lab.layers.folding import for_inference
from sr_lab.ops.colour import rgb_to_y, rgb_to_ycbcr, ycbcr_to_rgb
from sr_lab.ops.resize import imresize
from sr_lab.tasks import export
from tests.checkpoints.test_checkpoints import ours
from tests.composing import compose
from tests.datasets.test_images import save_png16
from tests.tiny import TinyNet, stored


class Repeat(nn.Module):
    """Upscales by nearest neighbour, so the output is known."""

    scale = 2

    def __init__(self, colour="rgb"):
        super().__init__()
        self.colour = colour

    def forward(self, lr):
        assert not self.training
        assert lr.shape[1] == {"rgb": 3, "y": 1}[self.colour]
        return lr.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def test_a_model_name_gives_a_network_with_fresh_weights():
    net = sr_lab.load("imdn", scale=2)
    assert (type(net).__name__, net.scale, net.training) == ("IMDN", 2, False)


def test_a_model_name_needs_a_scale():
    with pytest.raises(
        ConfigError, match=r"load: a network needs its scale, got 'imdn'; pass scale=2, 3 or 4"
    ):
        sr_lab.load("imdn")


def test_an_official_checkpoint_is_recognised(weights_dir):
    net = sr_lab.load(weights_dir / "IMDN" / "IMDN_x3.pth")
    assert (type(net).__name__, net.scale) == ("IMDN", 3)


def test_a_checkpoint_of_several_scales_needs_a_scale(weights_dir):
    with pytest.raises(
        CheckpointError,
        match="choose model=carn_m scale=2 or model=carn_m scale=3",
    ):
        sr_lab.load(weights_dir / "CARN-M" / "carn_m.pth")
    assert sr_lab.load(weights_dir / "CARN-M" / "carn_m.pth", scale=3).scale == 3


def test_a_scale_that_does_not_fit_an_official_checkpoint_is_refused(weights_dir):
    with pytest.raises(CheckpointError, match=r"does not fit scale=4; choose model=imdn scale=3"):
        sr_lab.load(weights_dir / "IMDN" / "IMDN_x3.pth", scale=4)


def test_a_folder_of_options_is_checked_as_on_the_command_line(tmp_path, monkeypatch):
    (tmp_path / "experiment").mkdir()
    sly = tmp_path / "experiment" / "sly.yaml"
    monkeypatch.setenv("CANARY", "sang")
    for text in ("experiment_name: ${oc.env:CANARY}", "hydra: {launcher: {_target_: os.system}}"):
        sly.write_text(f"# @package _global_\n{text}\n")
        with pytest.raises(ConfigError, match="is not allowed in a file"):
            sr_lab.compose("trainer=cpu", "experiment=sly", config_dir=tmp_path)
    sly.write_text("name: ${oc.env:CANARY}\n")
    with hydra.initialize_config_dir(str(sly.parent), version_base="1.3"):
        assert hydra.compose("sly").name == "sang"  # the user's own use of Hydra stays as it was


def test_a_checkpoint_that_names_a_class_in_an_untrusted_package_is_refused(tmp_path):
    path = ours(tmp_path / "a.ckpt", TinyNet())  # the record refers to somewhere.Net
    with pytest.raises(ConfigError, match=r"'somewhere.Net' may not be named here"):
        sr_lab.load(path)


def test_a_missing_file_is_refused():
    with pytest.raises(CheckpointError, match=r"load: there is no file 'nowhere.pth'"):
        sr_lab.load("nowhere.pth")


def test_upscaling_an_array_returns_an_array(pixels):
    sr = sr_lab.upscale(pixels, Repeat())
    assert sr.dtype == np.uint8
    assert np.array_equal(sr, pixels.repeat(2, 0).repeat(2, 1))


def test_a_16_bit_array_stays_a_16_bit_array(pixels):
    deep = pixels.astype(np.uint16) * 257 - pixels % 2
    assert np.array_equal(sr_lab.upscale(deep, Repeat()), deep.repeat(2, 0).repeat(2, 1))


def test_float_arrays_and_grey_arrays_keep_their_format(pixels):
    grey = pixels[..., 0] / 255
    sr = sr_lab.upscale(grey, Repeat())
    assert (sr.dtype, sr.shape) == (np.float64, (12, 16))
    assert np.abs(sr - grey.repeat(2, 0).repeat(2, 1)).max() < 1e-6


def test_upscaling_a_file_returns_a_pillow_image(tmp_path, pixels):
    Image.fromarray(pixels).save(tmp_path / "small.png")
    sr = sr_lab.upscale(tmp_path / "small.png", Repeat())
    assert np.array_equal(np.asarray(sr), pixels.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(("mode", "expected"), [("L", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("I;16", "I;16")])
def test_the_mode_of_a_pillow_image_is_kept_or_converted_to_rgb(pixels, mode, expected):
    image = Image.fromarray(pixels)
    image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
    sr = sr_lab.upscale(image, Repeat())
    assert (sr.mode, sr.size) == (expected, (16, 12))


def test_transparency_is_kept(pixels):
    image = Image.fromarray(pixels).convert("RGBA")
    image.putalpha(100)
    sr = sr_lab.upscale(image, Repeat())
    assert (sr.mode, sr.getchannel("A").getextrema()) == ("RGBA", (100, 100))


def test_tensors_keep_their_axes_and_dtype():
    assert sr_lab.upscale(torch.rand(3, 4, 5), Repeat()).shape == (3, 8, 10)
    assert sr_lab.upscale(torch.rand(2, 1, 4, 5, dtype=torch.float64), Repeat()).dtype == torch.float64


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4), np.int32), torch.zeros(4, 4), 3]
)
def test_anything_but_an_image_is_refused(image):
    with pytest.raises(DataError, match=r"upscale: cannot upscale .*; allowed: "):
        sr_lab.upscale(image, Repeat())


def test_a_broken_file_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DataError, match=r"images: cannot read .*a.png: it is not one of PNG"):
        sr_lab.upscale(tmp_path / "a.png", Repeat())


def test_a_broken_header_is_refused_like_any_broken_file(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[11] = 1  # a wrong length of the first chunk makes Pillow raise a ValueError
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"images: cannot read .*a.png: "):
        sr_lab.upscale(tmp_path / "a.png", Repeat())


def test_a_file_with_several_pages_is_refused(tmp_path):
    pages = [Image.new("L", (4, 4), value) for value in (0, 255)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match=r"a.tif is animated or has several pages"):
        sr_lab.upscale(tmp_path / "a.tif", Repeat())


def test_with_a_luma_network_the_chroma_is_upscaled_bicubically():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 6, 8) * 0.2 + 0.4
    ycbcr = rgb_to_ycbcr(upscale_batch(Repeat("y"), image))
    expected = rgb_to_ycbcr(image)
    assert torch.allclose(
        ycbcr[:, :1], expected[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-6
    )
    assert torch.allclose(ycbcr[:, 1:], imresize(expected[:, 1:], numerator=2), atol=1e-6)


def test_a_luma_network_accepts_a_grey_image():
    grey = torch.rand(1, 1, 4, 4)
    expected = grey.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(upscale_batch(Repeat("y"), grey), expected, atol=1e-6)


def test_ycbcr_has_the_same_luma_as_the_metrics_and_converts_back():
    torch.manual_seed(0)
    rgb = torch.rand(2, 3, 5, 6, dtype=torch.float64)
    assert torch.allclose(rgb_to_ycbcr(rgb)[:, :1], rgb_to_y(rgb), atol=1e-12)
    assert torch.allclose(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb, atol=1e-12)


def test_a_network_in_training_mode_stays_in_training_mode():
    net = Repeat().train()
    upscale_batch(net, torch.rand(1, 3, 4, 4))
    assert net.training


@pytest.mark.parametrize("value", [255.0, -0.5, np.nan])
def test_float_values_outside_zero_to_one_are_refused(value):
    image = np.full((4, 4, 3), 0.5)
    image[0, 0, 0] = value
    for given in (image, torch.from_numpy(image).permute(2, 0, 1)):
        with pytest.raises(DataError, match=r"values in \[0, 1\], got .*; divide 8-bit values by 255"):
            sr_lab.upscale(given, Repeat())


@pytest.mark.parametrize("mode", ["F", "I"])
def test_a_pillow_image_of_unknown_range_is_refused(mode):
    with pytest.raises(DataError, match=f"mode {mode}, whose range is unknown"):
        sr_lab.upscale(Image.new(mode, (4, 4)), Repeat())


def test_a_pillow_image_keeps_its_colour_profile_and_its_transparency(pixels):
    image = Image.fromarray(pixels)
    image.info["icc_profile"] = b"profile"
    assert sr_lab.upscale(image, Repeat()).info["icc_profile"] == b"profile"
    assert sr_lab.upscale(Image.new("LA", (4, 4), (10, 20)), Repeat()).mode == "LA"


@pytest.mark.parametrize("transparency", [None, 0], ids=["opaque", "with a transparent value"])
def test_a_grey_image_of_16_bits_keeps_its_colour_profile(transparency):
    image = Image.fromarray(np.full((4, 5), 40000, np.uint16))
    image.info |= {"icc_profile": b"profile"} | (
        {} if transparency is None else {"transparency": transparency}
    )
    sr = sr_lab.upscale(image, Repeat(), note=lambda _: None)
    assert sr.info["icc_profile"] == b"profile"
    assert sr.mode == ("I;16" if transparency is None else "LA")


def test_the_loss_of_a_cmyk_profile_is_noted(tmp_path):
    said = []
    Image.new("CMYK", (4, 5)).save(tmp_path / "a.jpg", icc_profile=b"profile")
    sr = sr_lab.upscale(tmp_path / "a.jpg", Repeat(), note=said.append)
    assert [sentence.partition(":")[0] for sentence in said] == ["the CMYK colour profile is dropped"]
    assert "icc_profile" not in sr.info
    Image.new("CMYK", (4, 5)).save(tmp_path / "b.jpg")
    sr_lab.upscale(tmp_path / "b.jpg", Repeat(), note=said.append)
    assert len(said) == 1


def test_a_path_in_place_of_a_model_is_refused(pixels):
    with pytest.raises(ConfigError, match="model must be a network, got str; load it first"):
        sr_lab.upscale(pixels, "IMDN_x4.pth")


def test_a_network_in_half_precision_runs():
    net = nn.Conv2d(3, 3, 1).half()
    assert upscale_batch(net, torch.rand(1, 3, 4, 4)).dtype == torch.float32


def test_frozen_parts_stay_in_evaluation_mode_and_the_result_can_be_trained_on():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).train()
    net[1].eval()
    sr = upscale_batch(net, torch.rand(1, 3, 4, 4))
    assert (net.training, net[0].training, net[1].training) == (True, True, False)
    (sr * torch.ones(1, requires_grad=True)).sum().backward()


def test_the_error_for_a_misspelt_name_gives_the_closest_network_name():
    with pytest.raises(ConfigError, match=r"there is no option 'osfnet'.*did you mean 'osffnet'"):
        sr_lab.load("osfnet", scale=4)


def test_a_scale_that_is_not_a_number_is_refused():
    with pytest.raises(ConfigError, match="scale must be a whole number of at least 2, got '4'"):
        sr_lab.load("imdn", scale="4")


def test_an_unknown_name_in_the_package_is_an_attribute_error():
    code = "import sr_lab; print(sr_lab.__all__); sr_lab.lode"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "['HubNetwork', '__version__', 'compose', 'export', 'load', 'measure', 'upscale']" in done.stdout
    assert "module 'sr_lab' has no attribute 'lode'" in done.stderr


def cut_out(seen, hidden, mode="RGBA"):
    """An image of one colour with a transparent area of another."""
    image = Image.new(mode, (9, 7), seen)
    image.paste(hidden, (0, 0, 4, 7))
    return image


@pytest.mark.parametrize("model", ["bicubic", "repeat"])
@pytest.mark.parametrize(
    ("mode", "seen", "hidden"), [("RGBA", (255, 0, 0, 255), (0, 255, 0, 0)), ("LA", (200, 255), (0, 0))]
)
def test_invisible_pixels_do_not_colour_visible_pixels(mode, seen, hidden, model):
    network = Repeat() if model == "repeat" else sr_lab.load("bicubic", scale=3)
    sr = np.asarray(sr_lab.upscale(cut_out(seen, hidden, mode), network))
    visible = sr[sr[..., -1] > 0]
    assert (visible[:, :-1] == seen[:-1]).all()
    assert 0 < len(visible) < sr[..., 0].size


def test_the_colours_of_an_opaque_image_do_not_depend_on_its_alpha_channel(pixels):
    image = Image.fromarray(pixels)
    expected = np.asarray(sr_lab.upscale(image, Repeat()))
    image.putalpha(255)
    assert np.array_equal(np.asarray(sr_lab.upscale(image, Repeat()))[..., :3], expected)


def test_a_16_bit_grey_image_keeps_its_transparency(tmp_path):
    values = np.full((4, 5), 40000, np.uint16)
    values[:, :2] = 7
    Image.fromarray(values).save(tmp_path / "a.png", transparency=7)
    with pytest.warns(UserWarning, match="16 bits become 8"):
        sr = np.asarray(sr_lab.upscale(tmp_path / "a.png", Repeat()))
    assert (sr[..., 0] == 40000 >> 8).all()
    assert (sr[0, 0, 1], sr[0, -1, 1]) == (0, 255)


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_a_loss_of_bit_depth_is_noted(tmp_path, colour_type, channels):
    path = save_png16(tmp_path / "a.png", np.full((4, 5, channels), 65535, np.uint16), colour_type)
    said = []
    sr_lab.upscale(path, Repeat(), note=said.append)
    with Image.open(path) as image:
        sr_lab.upscale(image, Repeat(), note=said.append)
    assert [sentence.partition(":")[0] for sentence in said] == ["16 bits become 8"] * 2


def test_an_image_without_pixels_is_refused():
    with pytest.raises(DataError, match=r"upscale: the image has no pixels, got 5x0; allowed: 1x1 or larger"):
        sr_lab.upscale(Image.new("RGB", (5, 0)), Repeat())


def test_a_network_is_folded_only_once_until_its_weights_change(monkeypatch, pixels):
    network = sr_lab.load("ecbsr_m4c16", scale=2)
    folded = []
    monkeypatch.setattr(api, "for_inference", lambda net: folded.append(for_inference(net)) or folded[-1])
    first = sr_lab.upscale(pixels, network)
    assert np.array_equal(sr_lab.upscale(pixels, network), first)
    assert len(folded) == 1
    next(network.parameters()).data.mul_(2)  # a change through .data does not bump the version counter
    assert np.array_equal(sr_lab.upscale(pixels, network), sr_lab.upscale(pixels, for_inference(network)))
    assert len(folded) == 3  # once for the new weights and once by the line above
    assert not np.array_equal(sr_lab.upscale(pixels, network), first)


def test_a_folded_network_does_not_outlive_its_original(pixels):
    for name in ("ecbsr_m4c16", "fsrcnn"):  # FSRCNN has nothing to fold
        network = sr_lab.load(name, scale=2)
        sr_lab.upscale(pixels, network)
        gone = weakref.ref(network)
        del network
        gc.collect()
        assert gone() is None


def test_export_writes_what_the_task_writes(tmp_path):
    ckpt = tmp_path / "own.safetensors"
    ckpt.write_bytes(stored("ecbsr_m4c16", 2))
    (file, card) = sr_lab.export(ckpt, tmp_path / "api", format="safetensors")
    words = (f"ckpt={ckpt}", f"output={tmp_path / 'task'}", "format=safetensors")
    export.run(compose("task=export", *words), tmp_path, words)
    assert file.read_bytes() == (tmp_path / "task" / file.name).read_bytes()
    assert card.read_text() == (tmp_path / "task" / card.name).read_text()
    assert file.read_bytes() == ckpt.read_bytes()


def test_export_takes_the_height_and_width_of_a_fixed_image_like_a_tensor(tmp_path):
    (file, card) = sr_lab.export(Repeat(), tmp_path, format="pt2", size=(20, 30))
    assert "30x20 (width x height)" in card.read_text()
    assert torch.export.load(file).module()(torch.rand(1, 3, 20, 30)).shape == (1, 3, 40, 60)


def test_export_takes_a_network_and_reports_the_formats_that_failed(tmp_path):
    notes = []
    network = Repeat()
    files = sr_lab.export(network, tmp_path, format=["pt2", "safetensors"], note=notes.append)
    assert [file.name for file in files] == ["repeat_x2.pt2", "repeat_x2.md"]
    assert "safetensors: needs the network's settings" in notes[0]
    lr = torch.rand(2, 3, 7, 9)
    assert torch.equal(torch.export.load(files[0]).module()(lr), network.eval()(lr))
    with pytest.raises(ConfigError, match="exists; add overwrite=true"):
        sr_lab.export(network, tmp_path, format="pt2")
    with pytest.raises(ConfigError, match=r"format.*caffe"):
        sr_lab.export(network, tmp_path, format="caffe")
