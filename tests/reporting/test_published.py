"""The values that papers print, and the plot of quality against cost that shows them."""

import io

import pytest
from PIL import Image

from sr_lab.analysis import drawing
from sr_lab.reporting import counts, published
from sr_lab.reporting.tradeoff import Point, figure


@pytest.mark.parametrize(
    ("model", "scale", "set_name", "psnr"),
    [
        ("osffnet", 4, "Urban100", 26.36),  # from Table 1, not the 26.12 of the ablation
        ("imdn", 4, "Set5", 32.21),
        ("carn", 4, "Urban100", 26.07),
        ("efrdn", 4, "Urban100", 26.37),
        ("edsr_shallow", 4, "Set5", None),  # appears only in an ablation
        ("bicubic", 4, "Set5", None),
    ],
)
def test_published_psnr_is_found_for_a_network_scale_and_set(model, scale, set_name, psnr):
    assert counts.psnr(model, scale, set_name) == psnr


def test_a_row_of_another_size_is_not_the_network_that_it_names():
    assert counts.psnr("edsr", 2, "Set5") is not None
    assert counts.psnr("edsr", 4, "Set5") != 32.46  # printed for 1778 K; EDSR-baseline has 1518 K
    assert counts.printed_multi_adds("srcnn", 4, 8_129).text == "52.7"
    assert counts.printed_multi_adds("srcnn", 4, 57_281) is None
    assert counts.printed_multi_adds("osffnet", 4, 536_503).text == "22.0"
    assert counts.printed_multi_adds("osffnet", 4, 486_000) is None  # an ablation


@pytest.mark.parametrize(
    ("paper", "row", "scale", "says"),
    [
        ("osffnet", "OSFFNet", 4, "torchinfo's count at 1280x720"),
        ("efrdn", "EFRDN", 4, "no attention"),
        ("efrdn", "EFRDN", 2, "four times the 27.9 G of the x4 network"),
        ("efrdn", "ESRT", 4, "rule not found: convolutions and linear layers have 58.4 G"),
        ("efrdn", "SwinIR", 4, "an LR image of 264x184"),
        ("mren", "MREN", 2, "an LR image of 192x192"),
        ("osffnet", "HNCT", 4, "rule not checked"),
        ("imfm", "+PAB minus plain", None, "weights of convolutions"),
    ],
)
def test_each_printed_count_of_multiply_adds_has_its_rule_and_size(paper, row, scale, says):
    found = [
        f
        for f in published.figures()
        if (f.paper, f.row, f.scale, f.metric) == (paper, row, scale, "multi_adds_g")
    ]
    assert says in counts.rule(found[0])


def test_the_gain_of_a_strategy_does_not_count_as_a_psnr():
    values = [f.value for f in published.comparisons() if f.metric == "psnr_y"]
    assert min(values) > 20


def test_a_figure_records_its_table_row_and_scale():
    (figure,) = [
        f
        for f in published.figures()
        if (f.paper, f.table, f.row, f.scale, f.metric) == ("osffnet", "table1", "OSFFNet", 4, "num_params_k")
    ]
    assert (figure.model, figure.set_name, figure.value) == ("osffnet", "", 537)


def test_the_plot_tells_printed_published_and_measured_values_apart():
    points = [
        Point("imdn", 715e3, 40.9e9, psnr, source)
        for psnr, source in ((26.04, "paper"), (26.0, "weights"), (26.1, "run"))
    ]
    content = drawing.written(figure(points, title="x4", set_name="Urban100"), made_by="a test", says="x")
    picture = Image.open(io.BytesIO(content["png"])).convert("RGB")
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    assert {(200, 87, 27), (91, 138, 60), (31, 111, 180)} <= colours
