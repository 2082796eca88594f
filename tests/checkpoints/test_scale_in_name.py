"""Scales in the names of files and folders; the names are from published files or resemble them."""

from pathlib import Path

import pytest

from sr_lab.checkpoints.scale_in_name import NamedScale, named_scale

SAYS = {
    2: "aan_x2.pt LBNet-T_X2.pt FDIWNx2/model/model_best.pt SMSR_X2/model/model_1000.pt x2/best.pth",
    3: "fsrcnn_x3.pth net_scale_3.pt vdsr×3.mat pan.x3.pth carn_m_X3.pth pan_x3s48.pth pan_x3ema.pth "
    "pan_x03.pth",
    4: "PANx4_DF2K.pth SRx4.pth rcanx4.pt scale4.pth upscale=4.pth x4/best.pth 4x.pth 4x-UltraSharp.pth "
    "4xNomosUni_span.pth RealESRGAN_x4plus.pth realesr-general-x4v3.pth AAF_SD_x4/model_best.pt vdsr_4x.pth "
    "EDSR_x4_x4.pt factor_4/a/b/best.pth pan_x4_ft_from_x2.pth Model4x.pth x4/vdsr_x2_x4.pth",
    8: "rcan_x8.pt",
    16: "edsr_x16.pt",
}
SILENT = (
    "x48.pth 4x4.pth conv3x3.pth net_1280x720.pth f64x48.pth patch192x192/best.pth x265.pth x86_64/a.pth "
    "max4.pth box2.pth index3.pth flux2.pth x4k.pth 2xconv.pth n16x4c64.pth 2x3x4.pth "
    "model_4.pth epoch_4.pth s4.pth scale48.pth x2.5.pth scale1.5.pth best.pth "
    "x4/a/b/c/best.pth "
    "set14x_new.pth 0x2a.pth resnext50_32x4d.pth DIV2K_256x256.pth model_v2x.pth from_x2.pth"
)


@pytest.mark.parametrize(("scale", "name"), [(key, name) for key in SAYS for name in SAYS[key].split()])
def test_the_scale_is_read_from_a_name(scale, name):
    assert named_scale(Path("/a/b/c/d") / name).scale == scale


@pytest.mark.parametrize("name", SILENT.split())
def test_a_name_with_other_numbers_gives_no_scale(name):
    assert named_scale(Path("/a/b/c/d") / name) is None


def test_the_name_of_a_file_takes_precedence_over_the_name_of_its_folder():
    assert named_scale(Path("/a/PAN_x2/pan_x3.pth")) == NamedScale((3,), "pan_x3")
    assert named_scale(Path("/a/PAN_x2/best.pth")) == NamedScale((2,), "PAN_x2")


def test_a_name_may_list_the_scales_of_one_network():
    assert named_scale(Path("/a/b/vdsr_x2x3x4.pth")) == NamedScale((2, 3, 4), "vdsr_x2x3x4")


def test_the_name_of_a_folder_chooses_among_several_scales_in_the_name_of_a_file():
    assert named_scale(Path("/a/PAN_x2/vdsr_x2_x4.pth")) == NamedScale((2,), "PAN_x2")
    for path in ("/a/b/vdsr_x2_x4.pth", "/a/PAN_x3/vdsr_x2_x4.pth", "/a/vdsr_x2_x4/best.pth"):
        found = named_scale(Path(path))
        assert found == NamedScale((2, 4), "vdsr_x2_x4")
        assert found.scale is None
