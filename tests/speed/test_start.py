import pytest

from sr_lab.speed import start


@pytest.mark.slow
def test_the_time_to_the_first_step_is_measured_on_a_training_run(tmp_path):
    seconds = start.first_step(tmp_path)
    assert seconds > 1  # importing torch alone takes this long
    (record,) = (tmp_path / "outputs").glob("*/*/metrics.csv")
    assert record.read_text().splitlines()[1].startswith("1,")
    # The run was killed after its first step.
    assert not list((tmp_path / "outputs").glob("*/*/metrics.json"))


def test_the_figures_are_computed_from_the_measured_times(tmp_path):
    (benchmark,) = start.benchmarks(tmp_path)
    figures = benchmark.figures({"training": 6.0, "import": 5.0, "help": 0.6, "hydra": 0.2})
    assert {key: round(value, 6) for key, value in figures.items()} == {
        "ratio_to_import": 1.2,
        "first_step_s": 6.0,
        "help_ratio_to_import_hydra": 3.0,
    }
