"""Which runs share a row of a table: those whose identities differ in nothing but the seed."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sr_lab.config.identity import identity
from sr_lab.reporting.experiment import experiment_table
from sr_lab.reporting.runs import Run
from sr_lab.reporting.table import Table
from tests.composing import compose
from tests.config.test_identity import BASE, CHANGING, NEUTRAL
from tests.report_runs import values

DIGEST = "0123456789abcdef" * 4
OTHER_DIGEST = DIGEST[::-1]
TABLE = {"paper": "osffnet", "name": "table2"}
EVALUATE = ("task=evaluate", "trainer=cpu", "model=imdn")


def run(*overrides: str, seed: int | None = None, name: str = "imdn_x4", **more: object) -> Run:
    """A finished run of a command, whose results depend only on its seed."""
    config = compose(*overrides, *(() if seed is None else (f"seed={seed}",)))
    known, settings = identity(config), json.loads(config.model_dump_json())
    held = values(None, 30.0 + config.seed, run=name, seed=config.seed, task=config.task, scale=config.scale)
    folder = f"{name}-{abs(hash((overrides, seed))) % 2**32:08x}"
    return Run(Path(folder), held | more, settings=settings, identity=known, code={"net": "1"})


def with_identity(one: Run, known: dict[str, object]) -> Run:
    return replace(one, path=Path(f"other-{json.dumps(known)}"), identity=known)


def rows(made: Table) -> list[tuple[str, ...]]:
    """What distinguishes the measured rows for a reader: scale, label and settings."""
    settings = [n for n, column in enumerate(made.columns) if column.is_setting]
    return [
        (row.block, row.label, *(row.cells[n].text for n in settings))
        for row in made.rows
        if row.is_measured and not row.is_reference
    ]


def tables(runs: list[Run]) -> list[Table]:
    """The table of a sweep, and the table of a paper in which all runs belong to one row."""
    of_paper = [
        replace(own, values=own.values | {"table": TABLE, "row": "111"}, labels=("111",)) for own in runs
    ]
    return [experiment_table(runs), experiment_table(of_paper)]


def test_runs_that_differ_in_their_seed_share_a_row():
    for made in tables([run(*BASE, seed=seed) for seed in range(3)]):
        (row,) = (row for row in made.rows if row.is_measured and not row.is_reference)
        cell = next(cell for cell in row.cells if cell.value is not None and cell.std)
        assert (cell.value, cell.count) == (31.0, 3)
        assert row.label in ("imdn", "111")


def test_seeds_that_were_trained_on_different_images_are_two_rows(tmp_path):
    runs = [replace(run(*BASE, seed=seed), path=tmp_path / f"imdn_x4-{seed:08x}") for seed in range(3)]
    for own, pixels in zip(runs, ("1", "1", "2"), strict=True):
        own.path.mkdir()
        recorded = {"run": "", "training": "", "images": [f"0.bmp {pixels}"], "validation": ["9.bmp 0"]}
        (own.path / "images.json").write_text(json.dumps(recorded))
    for made in tables(runs):
        assert len(set(rows(made))) == len(rows(made)) == 2
    (runs[2].path / "images.json").unlink()  # its images are unknown
    for made in tables([replace(own) for own in runs]):
        assert len(rows(made)) == 1


@pytest.mark.parametrize("override", [each for each in CHANGING if each != "seed=1"])
def test_runs_that_differ_in_a_setting_of_their_identity_are_two_rows(override):
    for made in tables([run(*BASE, seed=0), run(*BASE, override, seed=1)]):
        assert len(set(rows(made))) == len(rows(made)) == 2


@pytest.mark.parametrize("overrides", NEUTRAL, ids=lambda overrides: overrides[0])
def test_runs_that_differ_in_no_setting_of_their_identity_share_a_row(overrides):
    expected = 2 if overrides[0].startswith("benchmark") else 1  # tested on other images
    for made in tables([run(*BASE, seed=0), run(*BASE, *overrides, seed=1)]):
        assert len(rows(made)) == expected


@pytest.mark.parametrize(
    "override", ["benchmark=set5", "benchmark.protocol=classic_y", "tile=32", "backend=auto"]
)
def test_evaluations_with_different_settings_are_two_rows(override):
    for made in tables([run(*EVALUATE), run(*EVALUATE, override)]):
        assert len(set(rows(made))) == len(rows(made)) == 2


def changed(value: object) -> object:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, list):
        return [changed(each) for each in value] or ["another"]
    if isinstance(value, str) and len(value) == len(DIGEST):
        return value[::-1]
    return f"{value}2" if value is not None else OTHER_DIGEST


def variants(known: dict[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    """For each value in an identity, the identity with another value in its place."""

    def leaves(node: dict[str, object], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for key, value in node.items():
            if isinstance(value, dict) and value:
                yield from leaves(value, (*place, key))
            else:
                yield (*place, key)

    for *path, key in leaves({name: value for name, value in known.items() if name not in ("seed", "code")}):
        other = copy.deepcopy(known)
        node = other
        for part in path:
            node = node[part]
        node[key] = changed(node[key])
        yield ".".join([*path, key]), other


IDENTITIES = {
    "train": lambda: run(*BASE, "callbacks=early_stopping", "+optimizer.betas=[0.9,0.99]"),
    "evaluate": lambda: run(*EVALUATE, "tile=32", "backend=auto"),
    "complexity": lambda: run("task=complexity", "trainer=cpu", "model=imdn"),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_every_value_of_an_identity_tells_two_rows_apart(name):
    """Even if the value is a digest or not in config.yaml; the other run has a different seed."""
    own = IDENTITIES[name]()
    more = {"images": DIGEST, "given_lr": [DIGEST], "ckpt": DIGEST} if name == "evaluate" else {}
    own = replace(own, identity={**own.identity, **more})
    seen = set()
    for place, known in variants(dict(own.identity)):
        if place == "scale":  # each scale has its own block, and the scale is read from the results
            continue
        seen.add(place.partition(".")[0])
        for made in tables([own, with_identity(own, known)]):
            assert len(set(rows(made))) == len(rows(made)) == 2, place
    assert seen == own.identity.keys() - {"seed", "code", "scale"}


def test_checkpoints_with_the_same_name_and_different_content_are_two_rows_that_show_the_digests():
    own = run(*EVALUATE)
    own = replace(
        own, settings={**own.settings, "ckpt": "best.ckpt"}, identity={**own.identity, "ckpt": DIGEST}
    )
    other = with_identity(own, {**own.identity, "ckpt": OTHER_DIGEST})
    sweep, paper = tables([own, other])
    assert [row[2:] for row in rows(sweep)] == [("01234567",), ("fedcba98",)]
    assert [row[1] for row in rows(paper)] == [
        "111 (ckpt (sha256)=01234567)",
        "111 (ckpt (sha256)=fedcba98)",
    ]


def test_digests_are_not_shown_where_other_settings_tell_the_rows_apart():
    own = run(*EVALUATE)
    runs = [
        replace(own, settings={**own.settings, "ckpt": name}, identity={**own.identity, "ckpt": digest})
        for name, digest in (("a.ckpt", DIGEST), ("b.ckpt", OTHER_DIGEST))
    ]
    assert [row[2:] for row in rows(experiment_table(runs))] == [("a.ckpt",), ("b.ckpt",)]


def test_a_run_that_never_began_joins_the_row_of_its_settings():
    begun = run(*BASE, "trainer.gradient_clip_val=0.5", seed=0)
    failed = replace(
        run(*BASE, "trainer.gradient_clip_val=0.5", seed=1),
        values={},
        identity={},
        code={},
        problem="failed: no",
    )
    other = run(*BASE, "learning_rate=1e-3", seed=0)
    for runs in ([begun, failed, other], [failed, begun, other]):
        sweep, paper = tables(runs)
        assert {row[0] for row in rows(sweep)} == {"x4"}
        assert len(rows(sweep)) == 2
        notes = {row.label: row.note for row in paper.rows if row.is_measured and not row.is_reference}
        assert sorted(notes.values()) == ["", "seed 1 failed: no"]


def test_runs_of_earlier_versions_without_an_identity_are_compared_by_their_configuration():
    runs = [replace(run(*BASE, seed=seed), identity={}, code={}) for seed in (0, 1)]
    runs.append(replace(run(*BASE, "learning_rate=1e-3", seed=0), identity={}, code={}))
    for made in tables(runs):
        assert len(rows(made)) == 2


def on(digest: str, *, given: bool = False, **more: object) -> dict[str, object]:
    """Results of a run that was measured on the images with this digest."""
    protocol = "rgb_uint8 on given LR" if given else "rgb_uint8"
    return {"test_images_sha256": {"Set5": digest}, "protocol": protocol, **more}


def test_seeds_tested_on_other_images_of_the_same_number_are_two_rows():
    runs = [run(*BASE, seed=seed, **on(digest)) for seed, digest in enumerate((DIGEST, OTHER_DIGEST))]
    sweep, paper = tables(runs)
    assert [row[2:] for row in rows(sweep)] == [("01234567",), ("fedcba98",)]
    assert [row[1] for row in rows(paper)] == [
        "111 (images of Set5=01234567)",
        "111 (images of Set5=fedcba98)",
    ]


@pytest.mark.parametrize("given", [False, True], ids=["HR", "LR"])
def test_rows_measured_on_other_images_are_not_compared_and_each_has_its_bicubic_row(given):
    """The number of images is the same, and so is the protocol."""
    runs = [
        run(
            *BASE,
            f"model={name}",
            seed=seed,
            name=name,
            **on(digest, given=given),
            **{"bicubic/Set5/psnr_y": psnr},
        )
        for seed, (name, digest, psnr) in enumerate(
            (
                ("imdn", DIGEST, 28.0),
                ("pan", DIGEST, 28.0),
                ("rfdn", OTHER_DIGEST, 27.0),
                ("imfm", OTHER_DIGEST, 27.0),
            )
        )
    ]
    made = experiment_table(runs)
    psnr = next(n for n, column in enumerate(made.columns) if column.key == "Set5/psnr_y")
    found = {row.label: (row.cells[psnr].value, row.cells[psnr].rank) for row in made.rows}
    assert found == {
        "bicubic (Set5 01234567)": (28.0, 0),
        "bicubic (Set5 fedcba98)": (27.0, 0),
        "imdn": (30.0, 2),
        "pan": (31.0, 1),
        "rfdn": (32.0, 2),
        "imfm": (33.0, 1),
    }
    assert {row.label: row.against for row in made.rows if row.against} == {"pan": "imdn"}
    assert "warning: the images of Set5 differ between rows" in made.head


def test_the_number_of_images_is_compared_where_an_earlier_version_recorded_no_digest():
    runs = [run(*BASE, name="imdn", **on(DIGEST)), run(*BASE, "model=pan", name="pan")]
    made = experiment_table(runs)
    assert [row.label for row in made.rows if row.is_reference] == ["bicubic"]
    assert next(row.against for row in made.rows if row.label == "pan") == "imdn"


def cost(label: str, gpu: str | None, **more: object) -> Run:
    held = {"task": "complexity", "scale": 4, "table": {"paper": "two_strategies", "name": "table1"}}
    known = {"task": "complexity", "scale": 4, "gpu": gpu, "cpu": "a CPU, 4 threads"}
    name = f"{label} {gpu}"
    return Run(Path(name), held | {"device": gpu or "CPU"} | more, labels=(label,), identity=known)


@pytest.mark.parametrize("turn", [1, -1])
def test_costs_measured_later_without_a_gpu_do_not_hide_those_of_a_gpu(turn):
    trained = Run(
        Path("a"),
        values("Baseline", 31.5, table={"paper": "two_strategies", "name": "table1"}),
        labels=("Baseline",),
    )
    costs = [
        cost("Baseline", "H200", gpu_ms=7.0, date="2026-01-01"),
        cost("Baseline", None, cpu_s_per_megapixel=2.0, date="2026-02-01"),
    ]
    made = experiment_table([trained, *costs[::turn]])
    (row,) = (row for row in made.rows if row.is_measured and not row.is_reference)
    time = next(n for n, column in enumerate(made.columns) if column.key == "Set5/gpu_time_ms")
    assert row.cells[time].value == 7.0


def test_costs_on_two_devices_are_two_rows_each_compared_with_its_own_device():
    runs = [
        cost(label, gpu, gpu_ms=time)
        for label, gpu, time in (
            *(("Baseline", "H200", 1.0), ("Baseline", "V100", 4.0)),
            *(("Baseline+CA", "H200", 2.0), ("Baseline+CA", "V100", 5.0)),
        )
    ]
    made = experiment_table(runs)
    increase = next(
        n for n, column in enumerate(made.columns) if column.key == "Set5/gpu_time_increase_percent"
    )
    found = {row.label: row.cells[increase].value for row in made.rows if row.is_measured}
    assert found == {
        "Baseline (gpu=H200)": 0.0,
        "Baseline (gpu=V100)": 0.0,
        "Baseline+CA (gpu=H200)": 100.0,
        "Baseline+CA (gpu=V100)": 25.0,
    }


@pytest.mark.parametrize(
    ("task", "named", "title"),
    [("train", "train", "train"), ("evaluate", "train", "evaluate"), ("evaluate", "mine", "mine")],
)
def test_a_table_of_a_task_other_than_training_is_not_titled_train(task, named, title):
    one = run(experiment=named)
    assert experiment_table([replace(one, settings={**one.settings, "task": task})]).title == title
