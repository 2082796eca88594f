"""The papers' figures, and the plot of quality and cost that shows them."""

import io

import pytest
from PIL import Image

from sr_lab.reporting import published
from sr_lab.reporting.tradeoff import Point, draw


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
    assert published.psnr(model, scale, set_name) == psnr


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


def test_the_plot_is_drawn_with_hollow_and_filled_points():
    points = [Point("imdn_x4", 715e3, 40.9e9, 26.04, False), Point("imdn_x4", 715e3, 40.9e9, 26.1, True)]
    picture = Image.open(io.BytesIO(draw(points, title="x4", set_name="Urban100"))).convert("RGB")
    assert picture.width > picture.height > 500
    colours = {colour for _, colour in picture.getcolors(picture.width * picture.height)}
    assert {(200, 87, 27), (31, 111, 180)} <= colours  # colours of hollow and of filled points
