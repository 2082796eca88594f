import json
import re

import pytest

from sr_lab.errors import ConfigError
from sr_lab.reporting import speed


def table(**medians):
    facts = {"device": "Some CPU (R), 2 cores", "threads": 1, "commit": "0123456789", "date": "2026-01-01"}
    spread = {key: {"median": value, "q1": value * 0.9, "q3": value * 1.1} for key, value in medians.items()}
    return facts | spread


@pytest.mark.parametrize(
    ("key", "stored", "now", "falls"),
    [
        ("loader.ratio_to_png", 100, 89, True),
        ("loader.ratio_to_png", 100, 91, False),
        ("loader.ratio_to_png", 100, 300, False),
        ("start.ratio_to_import", 1.0, 1.11, True),
        ("start.ratio_to_import", 1.0, 1.09, False),
        ("start.ratio_to_import", 1.0, 0.5, False),
        ("loader.share_of_memcpy", 0.5, 0.4, True),
        ("loader.pairs_per_s", 9000, 100, False),  # a rate depends on the machine
        ("gpu_osffnet.ratio_to_fp32.bf16", 4.0, 2.0, True),
        ("unknown.ratio", 4.0, 2.0, False),  # no direction is defined for this key
        ("evaluate.share_outside_network", 0.07, 0.09, False),  # a change of less than 0.03 does not count
        ("evaluate.share_outside_network", 0.07, 0.11, True),
    ],
)
def test_a_ratio_that_is_worse_by_more_than_a_tenth_is_reported(key, stored, now, falls):
    found = speed.fallen(table(**{key: now}), table(**{key: stored}), [key.partition(".")[0]])
    assert [sentence.split(":")[0] for sentence in found] == [key] * falls


def test_a_fall_is_reported_with_both_figures():
    stored = table(**{"ssim.ratio_to_skimage": 6})
    (sentence,) = speed.fallen(table(**{"ssim.ratio_to_skimage": 3}), stored, ["ssim"])
    assert sentence == "ssim.ratio_to_skimage: 3, stored 6: 50% lower"


def test_a_figure_between_the_stored_quartiles_is_not_reported():
    stored = table() | {"psnr.ratio_to_skimage": {"median": 1.25, "q1": 0.72, "q3": 1.4}}
    assert speed.fallen(table(**{"psnr.ratio_to_skimage": 0.74}), stored, ["psnr"]) == []
    assert len(speed.fallen(table(**{"psnr.ratio_to_skimage": 0.7}), stored, ["psnr"])) == 1


def test_a_requested_figure_that_is_missing_is_reported():
    stored = table(**{"ssim.ratio_to_skimage": 6, "loader.ratio_to_png": 60})
    assert speed.fallen(table(), stored, ["ssim"]) == ["ssim.ratio_to_skimage: not measured, stored 6"]


def test_storing_some_figures_keeps_the_figures_of_other_benchmarks(tmp_path):
    (tmp_path / "README.md").write_text(f"before\n{speed.BEGIN}\nold\n{speed.END}\nafter\n")
    first = table(**{"loader.ratio_to_png": 60.0, "loader.gone_ratio": 1.0, "step.ratio_to_bare_loop": 1.01})
    path = speed.store(first, tmp_path)
    speed.store(table(**{"loader.ratio_to_png": 70.0}) | {"commit": "abcdef"}, tmp_path)
    assert path.name == "some-cpu-r-2-cores.json"
    stored = json.loads(path.read_text())
    assert set(speed.figures(stored)) == {"loader.ratio_to_png", "step.ratio_to_bare_loop"}
    assert [stored[key]["commit"] for key in sorted(speed.figures(stored))] == ["abcdef", "0123456789"]
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n")
    assert readme.endswith("after\n")
    assert "| loader.ratio\\_to\\_png | 70 | 63 to 77 | ≥ 50 (met) | abcdef |" in readme


def test_the_readme_shows_the_stored_figures():
    root = speed.benchmarks_dir()
    text = (root / "README.md").read_text()
    assert speed.filled(text, root) == text


def test_a_readme_without_markers_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="needs one '<!-- tables -->'"):
        speed.filled("nothing", tmp_path)


def test_the_readme_explains_every_benchmark():
    from sr_lab.tasks.benchmark import GROUPS

    text = (speed.benchmarks_dir() / "README.md").read_text()
    explained = set(re.findall(r"`(\w+)", text.split("## What the figures mean")[1].split("##")[0]))
    names = {name.partition("_")[0] for names in GROUPS.values() for name in names}
    assert names <= explained | {"gpu"}
