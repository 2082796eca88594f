"""Names of the HR, LR and SR images of a scene."""

from pathlib import Path

import pytest

from sr_lab.datasets.names import forms, of_role, pairs, role_of, scale_of, scale_of_result, stated_scales


def paths(*names):
    return [Path(f"{name}.png") for name in names]


# The HR name, the name of the other image, and the scale, as each data set or program writes them.
WRITTEN = {
    "equal names": ("0001", "0001", 4),
    "DIV2K, EDSR": ("0001", "0001x4", 4),
    "EDSR's benchmarks": ("baby", "babyx3", 3),
    "with a dash": ("0001", "0001_X2", 2),
    "DIV2K mild": ("0001", "0001x2m", 2),
    "DIV2K difficult": ("0001", "0001x4d", 4),
    "DIV2K wild": ("0001", "0001x4w2", 4),
    "DIV8K": ("0001", "0001x16", 16),
    "SelfExSR, LR": ("img_001_SRF_4_HR", "img_001_SRF_4_LR", 4),
    "SelfExSR, results": ("img_001_SRF_4_HR", "img_001_SRF_4_A+", 4),
    "upscaled SelfExSR": ("img_001_SRF_4_HR", "img_001_SRF_4_LR_x4", 4),
    "Urban100": ("img_001", "img_001_SRF_2_LR", 2),
    "RealSR": ("Canon_001_HR", "Canon_001_LR4", 4),
    "upscaled RealSR": ("Nikon_012_HR", "Nikon_012_LR3_x3", 3),
    "DRealSR": ("DSC_1286_x4", "DSC_1286_x1", 4),
    "LR": ("baby", "baby_LR", 4),
    "SR": ("baby_GT", "baby_SR", 4),
    "EDSR's results": ("baby", "baby_x4_SR", 4),
    "RCAN": ("baby_HR_x4", "baby_LRBI_x4", 4),
    "HAT": ("baby", "baby_HAT_SRx4", 4),
    "in front": ("HR_7", "lr_7", 4),
    "BasicSR's pieces": ("0001_s003", "0001x4_s003", 4),
    "a program's name": ("baby", "baby_x4_RCAN", 4),
    "KAIR": ("0801", "0801_x4_msrresnet0", 4),
    "a number at the end": ("ppt3", "ppt3x2", 2),
    "an x at the end": ("matrix3", "matrix3x2", 2),
}


@pytest.mark.parametrize(("hr", "other", "scale"), WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("is_known", [True, False], ids=["scale known", "scale unknown"])
def test_images_are_paired_by_the_names_that_data_sets_and_programs_write(hr, other, scale, is_known):
    unrelated = paths("zebra" if hr[0].isalpha() else "9999")
    found = pairs([*paths(hr), *unrelated], paths(other), scale if is_known else None)
    assert found == (dict(zip(paths(hr), paths(other), strict=True)), unrelated, [], [])


def test_only_lr_images_of_the_requested_scale_are_paired():
    found = pairs(paths("Canon_001_HR"), paths("Canon_001_LR2", "Canon_001_LR4"), 4)
    assert found.found == dict(zip(paths("Canon_001_HR"), paths("Canon_001_LR4"), strict=True))
    assert found.left == paths("Canon_001_LR2")


@pytest.mark.parametrize(
    ("hr", "other"),
    [("baby", "bird"), ("baby", "baby_2"), ("0001", "0001x2"), ("matrix2", "matrix3"), ("img_1", "img_10")],
)
def test_images_of_different_scenes_are_not_paired(hr, other):
    found = pairs(paths(hr), paths(other), 4)
    assert found == ({}, paths(hr), paths(other), [])
    assert pairs(paths("matrix2"), paths("matrix3")).found == {}


def test_an_unknown_suffix_is_ignored_only_if_all_images_have_it():
    found = pairs(paths("baby", "bird"), paths("baby_RCAN", "bird_EDSR"))
    assert found.left == paths("baby_RCAN", "bird_EDSR")


@pytest.mark.parametrize("added", ["out", "_out", "x4_IMDN", "_x4_BSRN", "-4x-UltraSharp", "SR"])
@pytest.mark.parametrize("scenes", [("1", "2"), ("baby", "zebra"), ("img_001", "img_002")], ids=str)
def test_what_a_program_appends_to_every_name_is_ignored(scenes, added):
    results = paths(*(f"{scene}{added}" for scene in scenes))
    assert pairs(paths(*scenes), results).found == dict(zip(paths(*scenes), results, strict=True))


def test_a_single_name_that_continues_the_word_is_another_scene():
    assert pairs(paths("baby"), paths("babysitter")).found == {}
    assert pairs(paths("1"), paths("1out")).found == dict(zip(paths("1"), paths("1out"), strict=True))


# The name of an HR image, the name of a result, and the scale that the result's name gives.
RESULTS = (
    *("baby babyx4_IMDN 4", "0001 0001_x4_BSRN 4", "0001 0001x4_BSRN 4", "zebra zebrax3_RCAN 3"),
    *("baby baby_IMDN_x2 2", "baby baby-4x-UltraSharp 4", "baby baby_RealESRGAN_x4plus 4", "0001 0001x2m 2"),
    *("0001 0001x16_EDSR 16", "img_001 img_001_SRF_4_A+ 4", "img_001_SRF_2_HR img_001_SRF_2_SRCNN 2"),
    *("baby_HR baby_x3_SR 3", "ppt3 ppt3x2 2", "baby baby_Model4x 4", "baby baby_scale3 3", "8 8_HAT_SRx4 4"),
    *("baby baby None", "1 1out None", "img_3x4 img_3x4_SR None", "baby baby_resnext50_32x4d None"),
    *("0001_256x256 0001_256x256_SR None", "0001 0001_256x256 None", "set14x_new set14x_new_SR None"),
    *("0x2a 0x2a_EDSR None", "baby baby_x2_x4 None", "baby baby_3x3conv None", "ppt3 ppt3_out None"),
)


@pytest.mark.parametrize("row", RESULTS)
def test_the_name_of_a_result_gives_its_scale_wherever_it_stands(row):
    hr, result, scale = row.split()
    assert str(scale_of_result(result, hr)) == scale


WITHOUT_SCALE = (
    "set14x_new img_001 0x2a resnext50_32x4d DIV2K_256x256 DIV2K_train_HR crop_1280x720 matrix3 3x3 x265 "
    "x86_64 x48 max4 x2.5 x1 v2x scale1.5 from_x2 16x16 8x64 2xconv"
)


@pytest.mark.parametrize("name", WITHOUT_SCALE.split())
def test_other_numbers_in_a_name_are_not_a_scale(name):
    assert stated_scales(name) == ()


def test_a_name_states_its_scales_in_order_without_the_scale_that_it_was_fine_tuned_from():
    assert stated_scales("vdsr_x4_x2_4x") == (4, 2)
    assert stated_scales("vdsr_x2x3x4") == (2, 3, 4)
    for name in (
        "pan_x4_init_x2",
        "pan_x4_ft_from_x2",
        "pan_4x_from-2x",
        "pan_from_scale2_to_x4",
        "panx4 (from x2)",
    ):
        assert stated_scales(name) == (4,), name


def test_several_candidates_for_one_image_are_named_and_none_is_chosen():
    found = pairs(paths("a", "b"), paths("a_x4", "a_SR", "b"))
    assert found.found == dict(zip(paths("b"), paths("b"), strict=True))
    assert found.doubtful == ["a.png fits a_x4.png and a_SR.png"]
    found = pairs(paths("a_HR", "a_GT"), paths("a"))
    assert found.doubtful == ["a.png fits a_HR.png and a_GT.png"]


def test_a_name_gives_the_role_and_the_scale_of_its_image():
    assert [role_of(name) for name in ("a_HR", "a_LR4", "a_SRF_2_LR", "a_SRF_2_SRCNN", "a_SR", "ax4")] == [
        *("HR", "LR", "LR", "SR", "SR", None)
    ]
    assert [scale_of(name) for name in ("a_HR", "a_LR4", "a_SRF_2_LR", "0001x3m", "ppt")] == [
        *(None, 4, 2, 3, None)
    ]
    assert forms("0001x4_SR") == ["0001x4_SR", "0001x4", "0001"]


def test_only_images_of_the_requested_role_count_in_a_folder_with_hr_and_lr_images():
    both = paths("Canon_001_HR", "Canon_001_LR4")
    assert of_role(both, "HR") == both[:1]
    assert of_role(both, "LR") == both[1:]
    photos = paths("beach", "sunset_LR")
    assert of_role(photos, "HR") == photos
