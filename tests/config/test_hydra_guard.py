"""Hydra's own settings could run code before a run is checked; each attack ends in a one-sentence error."""

import os
from contextlib import suppress
from pathlib import Path
from unittest import mock

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import GrammarParseError, OmegaConfBaseException

from sr_lab.config.hydra_guard import check_file
from sr_lab.config.identity import register_resolvers
from sr_lab.errors import ConfigError
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


# Pieces of the values in an untrusted file: interpolations, escapes, and parts of both.
PIECES = st.sampled_from(
    [
        *(
            "${",
            "}",
            "$",
            "{",
            "\\",
            "\\\\",
            "'",
            ",",
            ":",
            " ",
            "[",
            "]",
            ".",
            "CANARY",
            "a",
            "b",
            "%s",
            "now:",
        ),
        *("oc.env:", "oc.env:CANARY", "oc.env:SR_LAB_", "oc.create:", "oc.decode:", "oc.select:", "hydra:"),
        *("${oc.env:CANARY}", "{oc.env:CANARY}", "${a}", "${b}", "$\\{"),
    ]
)
TEXTS = st.lists(PIECES, max_size=6).map("".join)


def resolved(values: dict[str, object]) -> dict[str, object]:
    """Resolve each value separately, and leave out those that cannot be resolved."""
    found: dict[str, object] = {}
    for key in values:
        with suppress(OmegaConfBaseException, AttributeError, ValueError, TypeError):
            found[key] = OmegaConf.create({"a": values.get("a"), "b": values.get("b"), "x": values[key]})["x"]
    return found


@settings(max_examples=500, deadline=None)
@given(a=TEXTS, b=TEXTS)
def test_no_file_that_is_accepted_reads_the_environment(a: str, b: str):
    """This holds even if a value is resolved twice, or unescaped in between as Hydra unescapes a row."""
    register_resolvers()
    with mock.patch.dict(os.environ, CANARY="sang"):
        try:
            content = OmegaConf.create({"a": a, "b": b})
            check_file(Path("sly.yaml"), content)
        except (ConfigError, GrammarParseError):
            return
        values: dict[str, object] = {"a": a, "b": b}
        for name, text in list(values.items()):
            with suppress(HydraException):
                values[f"row_{name}"] = str(OverridesParser.create().parse_override(f"a={text}").value())
        assert "sang" not in str(resolved(resolved(values))), values


@pytest.mark.parametrize("words", [("--help",), ("experiment=none",), ("experiment=sly", "--help")])
def test_no_text_or_name_of_an_untrusted_file_controls_the_terminal(tmp_path: Path, words: tuple[str, ...]):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "\x1b]0;evil\x07.yaml").touch()
    text = '# @package _global_\nhydra: {help: {template: "\\e]0;evil\\a"}}\n'
    (tmp_path / "experiment" / "sly.yaml").write_text(text)
    done = sr_lab(tmp_path, f"--config-dir={tmp_path}", *words)
    said = done.stdout + done.stderr
    assert "\\x1b]0;evil" in said  # escaped
    assert "\x1b]" not in said
