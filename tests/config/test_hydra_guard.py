"""Hydra's own settings could run code before a run is checked: each attack ends in a one-sentence error."""

from pathlib import Path

import pytest

from tests.command_line import sr_lab

RUN = "_target_: torch.utils.collect_env.run\ncommand: touch {mark}\n"
SEARCHPATH, CONFIG_DIR = "hydra.searchpath=[file://{0}]", "--config-dir={0}"
IN_CALLBACKS = f"# @package hydra.callbacks.x\n{RUN}"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (CONFIG_DIR, IN_CALLBACKS),
        (SEARCHPATH, IN_CALLBACKS),
        (SEARCHPATH, f"# @package hydra.launcher\n{RUN}"),
        (SEARCHPATH, "# @package hydra.job_logging.handlers.x\n(): torch.utils.collect_env.run\n"),
        (SEARCHPATH, "# @package hydra.job_logging.handlers.x\nclass: torch.utils.collect_env.run\n"),
        (SEARCHPATH, "# @package hydra.job.env_set\nLD_PRELOAD: {mark}\n"),
    ],
)
def test_a_file_on_the_search_path_cannot_change_settings_of_hydra(tmp_path: Path, option: str, text: str):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "sly.yaml").write_text(text.format(mark=tmp_path / "ran"))
    done = sr_lab(tmp_path, option.format(tmp_path), "experiment=sly", "trainer=cpu", "budget=smoke")
    assert not (tmp_path / "ran").exists()
    assert done.returncode == 2
    assert "hydra." in done.stderr
    assert done.stderr.count("\n") == 1
