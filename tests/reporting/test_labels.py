"""What runs and rows are called: what differs between them."""

from pathlib import Path

import pytest

from sr_lab.reporting import saved_images
from sr_lab.reporting.experiment import experiment_table, in_table_order
from sr_lab.reporting.labels import labels, of_job, shared
from sr_lab.reporting.runs import Run
from sr_lab.run_folder import Listed, write_index
from tests.report_runs import values


def run(name: str, *overrides: str, seed: int = 0, scale: int = 4, **settings: object) -> Run:
    """A finished run of a sweep."""
    held = values(None, 30.0, run=name, seed=seed, scale=scale)
    folder = Path(f"{name}-{abs(hash((overrides, seed, scale))) % 2**32:08x}")
    own = {"model": {"_target_": "sr_lab.models.imdn.IMDN"}, "seed": seed, **settings}
    return Run(folder, held, settings=own, overrides=overrides)


def grid() -> list[Run]:
    """Two tails, two widths and two seeds, with long names."""
    return [
        run(
            f"imdn_x4_num_feat-{width}_{tail}_seed-{seed}_sample_smoke",
            *("model=imdn", f"+model.num_feat={width}", f"upsampler={tail}", f"seed={seed}", "trainer=cpu"),
            seed=seed,
            model={"_target_": "sr_lab.models.imdn.IMDN", "num_feat": width},
            upsampler={"name": tail, "factory": {"_target_": f"x.{tail}"}},
        )
        for tail in ("native", "deconv")
        for width in (16, 32)
        for seed in (0, 1)
    ]


def test_a_label_says_what_differs_and_nothing_else():
    assert labels(grid()[::4]) == ["native", "deconv"]
    assert labels(grid()[::2]) == [
        f"num_feat {width}, {tail}" for tail in ("native", "deconv") for width in (16, 32)
    ]
    assert labels(grid()[:2], seeds=True) == ["seed 0", "seed 1"]


def test_rows_pages_and_crops_use_the_same_words():
    made = experiment_table(grid())
    assert [row.label for row in made.rows if not row.is_reference] == labels(grid()[::2])
    assert saved_images.names(grid())[0] == "num_feat 16, native, seed 0"


def test_settings_that_all_rows_share_are_in_the_head_once():
    made = experiment_table(grid()[::4])
    assert shared(grid()[::4]) == "model=imdn model.num_feat=16 seed=0"
    assert made.head[0] == "all rows: model=imdn model.num_feat=16 seed=0"
    single = experiment_table(grid()[:1])
    assert single.head[0] == "run: imdn_x4_num_feat-16_native_sample_smoke"
    assert [row.label for row in single.rows if not row.is_reference] == ["imdn"]


def test_a_setting_in_the_label_keeps_its_column_in_files():
    made = experiment_table(grid()[::4])
    (column,) = [column for column in made.columns if column.is_setting]
    assert (column.key, column.is_in_label) == ("upsampler", True)


def test_networks_are_named_after_their_option():
    runs = [run("a2f_x4"), run("a2f_s_x4", model={"_target_": "sr_lab.models.a2f.A2F", "num_block": 4})]
    assert labels(runs) == ["a2f", "a2f_s"]


def test_a_name_that_the_user_gave_is_the_label():
    assert labels([run("mine"), run("theirs", learning_rate=1e-3)]) == ["mine", "theirs"]


def test_the_block_shows_the_scale():
    assert labels([run("imdn_x2", scale=2), run("imdn_x4")]) == ["imdn", "imdn"]


def test_paths_are_shown_without_the_folders_that_they_share():
    runs = [run("imdn_x4", task="evaluate", ckpt=f"/long/way/{name}/best.ckpt") for name in "ab"]
    assert labels(runs) == ["a/best.ckpt", "b/best.ckpt"]


def test_runs_are_in_the_order_of_their_rows():
    runs = grid()
    assert in_table_order(experiment_table(runs), runs[::-1])[:2] in (runs[1::-1], runs[:2])


@pytest.fixture
def place(tmp_path):
    jobs = [
        Listed(f"job-{tail}-{seed}", None, ["model=imdn", f"upsampler={tail}", f"seed={seed}"])
        for tail in ("native", "deconv")
        for seed in (0, 1)
    ]
    write_index(tmp_path, jobs)
    return tmp_path


def test_a_job_is_named_after_what_differs_in_its_sweep(place):
    assert of_job(place / "job-deconv-1") == "deconv, seed 1"
    assert of_job(place / "another") == ""
    assert of_job(place / "elsewhere" / "job") == ""
