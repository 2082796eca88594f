"""IMFM: the printed sizes, which contradict each other, and the sizes in the specification."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from sr_lab.errors import ConfigError
from sr_lab.models.imfm import CAM, IMFM, PAB
from sr_lab.ops.complexity import multi_adds, num_params
from sr_lab.upsamplers.deconv import DeconvUpsampler
from sr_lab.upsamplers.mwaum import MWAUM
from sr_lab.upsamplers.subpixel import SubpixelUpsampler
from tests.composing import compose
from tests.papers.meta import on_meta

SUBPIXEL = partial(SubpixelUpsampler, mid_ch=4)
# The rows of the ablation in Sec. 3.3, whose table is missing from the paper.
ROWS = (
    {"pab": False, "mswam": False, "cam": False},
    {"mswam": False, "cam": False},
    {"cam": False},
    {},
)


@pytest.mark.parametrize(
    ("upsampler", "params", "printed_k", "off"),
    [
        (None, 598_375, 596.362, 0.0034),
        (SUBPIXEL, 595_451, 594.011, 0.0025),
        (DeconvUpsampler, 578_119, 576.169, 0.0034),
    ],
    ids=["mwaum", "subpixel", "deconv"],
)
def test_table_3_is_reproduced_within_half_a_percent(upsampler, params, printed_k, off):
    net = on_meta(IMFM, scale=4, upsampler=upsampler)
    assert num_params(net) == params
    assert num_params(net) / 1e3 / printed_k - 1 == pytest.approx(off, abs=1e-4)


def test_table_4_contradicts_table_3():
    assert num_params(on_meta(IMFM, scale=4)) / 670e3 - 1 == pytest.approx(-0.107, abs=5e-4)  # printed: 670K
    assert num_params(on_meta(IMFM, scale=4, num_block=8)) == 679_963  # perhaps Table 4 has 8 blocks


@pytest.mark.parametrize(
    ("row", "params", "multi_adds_g"),
    [(0, 632_539, 48.24), (1, 569_259, 44.69), (2, 591_039, 46.48), (3, 598_375, 46.48)],
    ids=["plain", "+PAB", "+MSWAM", "+CAM"],
)
def test_the_ablation_rows_have_the_specified_counts(row, params, multi_adds_g):
    net = on_meta(IMFM, scale=4, **ROWS[row])
    assert num_params(net) == params
    # The paper prints no totals. The specification has 46.49 G for the last row.
    assert multi_adds(net, scale=4, rule="conv") / 1e9 == pytest.approx(multi_adds_g, abs=0.005)


def test_pab_saves_the_printed_number_of_parameters_to_within_420():
    plain, pab = on_meta(IMFM, scale=4, **ROWS[0]), on_meta(IMFM, scale=4, **ROWS[1])
    assert num_params(pab) - num_params(plain) == -63_280  # printed: -63.7K
    saved = multi_adds(plain, scale=4, rule="conv") - multi_adds(pab, scale=4, rule="conv")
    assert saved / 1e9 == pytest.approx(3.5, abs=0.05)  # printed: 3.5


def test_mswam_costs_the_printed_number_of_parameters():
    without, with_mswam = on_meta(IMFM, scale=4, **ROWS[1]), on_meta(IMFM, scale=4, **ROWS[2])
    assert (num_params(with_mswam) - num_params(without)) / 1e3 == pytest.approx(21.8, abs=0.05)


@pytest.mark.parametrize(("upsampler", "params"), [(None, 576_595), (MWAUM, 577_795)], ids=["own", "given"])
def test_a_given_tail_keeps_its_attention_without_mswam(upsampler, params):
    assert num_params(on_meta(IMFM, scale=4, mswam=False, upsampler=upsampler)) == params


@pytest.mark.parametrize(("scale", "params"), [(2, 587_359), (3, 587_359), (4, 598_375)])
def test_parameters_are_exact_to_the_unit(scale, params):
    assert num_params(on_meta(IMFM, scale=scale)) == params


@pytest.mark.parametrize(("scale", "multi_adds_g"), [(2, 143.79), (3, 71.50), (4, 46.48)])
def test_the_full_count_equals_the_count_of_the_convolutions(scale, multi_adds_g):
    # The specification has 143.83, 71.63 (for an LR width of 1280 / 3 instead of 426) and 46.49.
    net = on_meta(IMFM, scale=scale)
    assert multi_adds(net, scale=scale, rule="all") == multi_adds(net, scale=scale, rule="conv")
    assert multi_adds(net, scale=scale, rule="all") / 1e9 == pytest.approx(multi_adds_g, abs=0.005)


def test_equation_4_adds_the_bilinear_image():
    net = IMFM(scale=3, num_feat=16, num_block=1)
    torch.nn.init.zeros_(net.tail.last.weight)
    torch.nn.init.zeros_(net.tail.last.bias)
    lr = torch.rand(1, 3, 7, 9)
    torch.testing.assert_close(net(lr), F.interpolate(lr, scale_factor=3, mode="bilinear"))


def test_a_path_sees_all_earlier_paths_except_the_first():
    """By Equation 6, the output of the last path depends on every input except that of the first path."""
    block = PAB(8, num_path=4, num_path_feat=4, window_sizes=None, cam=None)
    last_path = []
    block.paths[-1].register_forward_hook(lambda module, inputs, output: last_path.append(output.clone()))
    x = torch.randn(1, 8, 9, 9)
    block(x)
    seen = []
    for path in range(4):
        with torch.no_grad():
            kept = block.split.weight.clone()
            block.split.weight[4 * path : 4 * path + 4] = 0
            block(x)
            block.split.weight.copy_(kept)
        seen.append(not torch.equal(last_path[-1], last_path[0]))
    assert seen == [False, True, True, True]


def test_coordinate_attention_equals_a_computation_by_hand():
    cam = CAM(4, num_squeezed=2)
    x = torch.randn(2, 4, 5, 3)

    def squeeze(pooled):  # (N, C), the mean of one row or column
        weight = cam.squeeze.weight[:, :, 0, 0]
        return F.hardswish(pooled @ weight.T + cam.squeeze.bias)

    def excite(squeezed, conv):
        return torch.sigmoid(squeezed @ conv.weight[:, :, 0, 0].T + conv.bias)

    expected = torch.empty_like(x)
    for i in range(5):
        for j in range(3):
            row = excite(squeeze(x[:, :, i].mean(dim=2)), cam.excite_rows)
            column = excite(squeeze(x[:, :, :, j].mean(dim=2)), cam.excite_columns)
            expected[:, :, i, j] = x[:, :, i, j] * row * column
    torch.testing.assert_close(cam(x), expected)


def test_both_readings_of_delta_have_the_same_parameters_and_different_outputs():
    x = torch.randn(1, 4, 5, 3)
    swish, sigmoid = CAM(4), CAM(4, act="h_sigmoid")
    sigmoid.load_state_dict(swish.state_dict())
    assert not torch.equal(sigmoid(x), swish(x))


@pytest.mark.parametrize("row", range(3), ids=["plain", "+PAB", "+MSWAM"])
def test_every_ablation_row_trains_and_accepts_an_image_of_one_pixel(row):
    net = IMFM(scale=2, num_feat=16, num_block=2, **ROWS[row])
    net(torch.rand(1, 3, 1, 1)).mean().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("scale", [8, 16])
def test_networks_for_other_scales_can_be_built(scale):
    net = IMFM(scale=scale, num_feat=16, num_block=1)
    assert net(torch.rand(1, 3, 5, 6)).shape == (1, 3, 5 * scale, 6 * scale)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_weights_in_half_precision_work(dtype):
    net = IMFM(scale=2, num_feat=16, num_block=1).to(dtype)
    with torch.no_grad():
        sr = net(torch.rand(1, 3, 9, 11).to(dtype))
    assert sr.dtype == dtype
    assert sr.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pab": False}, "got pab=false"),
        ({"cam_act": "relu"}, "got cam_act=relu"),
        ({"num_path": 0}, "got num_path=0; allowed: 1 or more"),
        ({"window_sizes": [3, 4]}, r"must be odd and at least 1, got \(3, 4\)"),
    ],
)
def test_unsupported_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        IMFM(scale=2, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pab": False, "cam": False, "num_path": 4}, "pab=false there are no paths, got num_path=4"),
        ({"pab": False, "cam": False, "num_path_feat": 9}, "there are no paths, .* num_path_feat=9"),
        ({"mswam": False, "window_sizes": [3]}, r"mswam=false there are no windows, got window_sizes=\(3,\)"),
        ({"cam": False, "cam_act": "relu"}, "cam=false there is no CAM, .* cam_act=relu"),
        ({"cam": False, "num_cam_feat": 5}, "cam=false there is no CAM, got num_cam_feat=5"),
    ],
)
def test_a_setting_without_effect_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        IMFM(scale=2, **settings)


def test_the_recipe_has_the_settings_of_the_paper():
    config = compose("experiment=imfm/train", "trainer=cpu", "budget=paper")
    assert (config.model["_target_"], config.upsampler.name) == ("sr_lab.models.imfm.IMFM", "native")
    assert (config.dataset["lr_patch_size"], config.steps, config.steps_per_epoch) == (64, 1_000_000, 1000)
    assert (config.schedule.interval, config.schedule.scheduler["T_0"]) == ("epoch", 250)  # Eq. 13: R
