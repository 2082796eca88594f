"""``task=benchmark``, with benchmarks that take no time."""

import json

import pytest

from sr_lab.config import identity
from sr_lab.errors import ConfigError
from sr_lab.reporting import speed
from sr_lab.speed.benchmark import Benchmark
from sr_lab.tasks import benchmark
from tests.composing import compose


@pytest.fixture
def benchmarks(monkeypatch, tmp_path):
    """Two groups of benchmarks; a test can set the first group's ratio. Tables are stored in ``tmp_path``."""
    ratio = {"loader": 60.0}
    workspaces = []

    def small(name, figure):
        return Benchmark(name, {"a": lambda: 1.0}, lambda _: {figure: ratio.get(name, 1.0)})

    def of_loader(workspace):
        workspaces.append(workspace)
        (workspace / "large").write_text("x")
        return [small("loader", "ratio_to_png")]

    from sr_lab.speed import loader, metrics

    monkeypatch.setattr(loader, "benchmarks", of_loader)
    monkeypatch.setattr(
        metrics,
        "benchmarks",
        lambda _: [small("ssim", "ratio_to_skimage"), small("psnr", "ratio_to_skimage")],
    )
    monkeypatch.setattr(benchmark, "GROUPS", {"loader": ("loader",), "metrics": ("ssim", "psnr")})
    monkeypatch.setattr(speed, "benchmarks_dir", lambda: tmp_path / "stored")
    ratio["workspaces"] = workspaces
    return ratio


def measure(folder, *overrides):
    folder.mkdir(exist_ok=True)
    config = compose("task=benchmark", "rounds=2", *overrides)
    benchmark.run(config, folder, overrides)
    return json.loads((folder / "benchmark.json").read_text())


def test_no_figure_is_truncated_in_a_narrow_terminal(benchmarks, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    measure(tmp_path / "run")
    said = capsys.readouterr().out
    assert "loader.ratio_to_png" in said
    assert "…" not in said


def test_figures_are_stored_with_their_origin(benchmarks, tmp_path, capsys):
    table = measure(tmp_path / "run")
    assert table["loader.ratio_to_png"] == {"median": 60.0, "q1": 60.0, "q3": 60.0}
    assert {"device", "threads", "clocks", "commit", "versions", "date", "rounds"} <= set(table)
    assert set(speed.figures(table)) == {
        "loader.ratio_to_png",
        "ssim.ratio_to_skimage",
        "psnr.ratio_to_skimage",
    }
    said = capsys.readouterr().out
    assert "≥ 50" in said
    assert "met" in said
    assert "there are no stored figures to compare with" in said
    assert [workspace.exists() for workspace in benchmarks["workspaces"]] == [False]


def test_only_the_named_benchmarks_run(benchmarks, tmp_path):
    assert set(speed.figures(measure(tmp_path / "run", "only=[ssim]"))) == {"ssim.ratio_to_skimage"}
    assert benchmarks["workspaces"] == []


def test_an_unknown_benchmark_is_refused_by_name(benchmarks, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"only: .* 'sim'; allowed: .*; did you mean 'ssim'\?",
    ):
        measure(tmp_path / "run", "only=[sim]")


def test_a_drop_in_a_ratio_gives_exit_code_1(benchmarks, tmp_path, capsys):
    measure(tmp_path / "run", "store=true")
    measure(tmp_path / "run")
    assert "none of 3 ratios is more than 10 % worse" in capsys.readouterr().out
    benchmarks["loader"] = 50.0
    with pytest.raises(SystemExit) as end:
        measure(tmp_path / "run")
    assert end.value.code == 1
    assert "worse by more than 10 %: loader.ratio_to_png: 50, stored 60: 17% lower" in capsys.readouterr().out


def test_a_group_that_fails_does_not_lose_the_figures_of_the_other_groups(
    benchmarks, tmp_path, monkeypatch, capsys
):
    from sr_lab.speed import loader

    def broken(_):
        raise RuntimeError("no such disk")

    monkeypatch.setattr(loader, "benchmarks", broken)
    with pytest.raises(RuntimeError, match="no such disk"):
        measure(tmp_path / "run")
    table = json.loads((tmp_path / "run" / "benchmark.json").read_text())
    assert "ssim.ratio_to_skimage" in table
    assert "loader: RuntimeError: no such disk" in capsys.readouterr().out


def test_every_group_is_a_module_and_every_goal_belongs_to_a_benchmark():
    names = [name for names in benchmark.GROUPS.values() for name in names]
    assert len(names) == len(set(names))
    for group in benchmark.GROUPS:
        assert __import__(f"sr_lab.speed.{group}", fromlist=["benchmarks"]).benchmarks
    for pattern in speed.GOALS:
        prefix = pattern.partition(".")[0].removesuffix("*").removesuffix("_")
        assert any(name.startswith(prefix) for name in names), pattern


def test_the_hash_in_the_name_of_the_folder_depends_on_what_is_measured():
    one, same, all_of_them = (
        identity.hash8(identity.identity(compose("task=benchmark", only)))
        for only in ("only=[ssim,loader]", "only=[loader,ssim]", "only=[]")
    )
    assert one == same != all_of_them
