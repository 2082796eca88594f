"""``--help`` for every option of every group."""

import ast
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

import hydra
import pytest
import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from sr_lab.config.identity import register_resolvers
from sr_lab.errors import ConfigError
from sr_lab.files import conf_dir, texts
from sr_lab.help import layout, network, option, page, source
from sr_lab.help.answer import answer
from sr_lab.strategies import cwss, ggas
from sr_lab.upsamplers.deconv import DeconvUpsampler
from tests.command_line import sr_lab
from tests.models.test_models import SHRUNKEN, one_of_each_class
from tests.papers.meta import unfilled

OPTIONS = option.groups([conf_dir()])
TAILS, STRATEGIES = OPTIONS["upsampler"], OPTIONS["strategy"]
EVERY = [
    (group.partition("/")[0], "/".join([*group.split("/")[1:], name]))
    for group, names in OPTIONS.items()
    for name in names
]


def helped(*overrides: str) -> str:
    """What ``--help`` prints, without starting a process."""
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = hydra.compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    job = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    return answer(job, HydraConfig.get())


def targets() -> Iterator[str]:
    """Every class and function that a file of ``conf/`` names."""
    for file in sorted(conf_dir().rglob("*.yaml")):
        yield from (text for text in texts(yaml.safe_load(file.read_text())) if text.startswith("sr_lab."))


def test_the_overview_fits_80_columns_and_names_every_option():
    lines = helped().splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).replace(",", " ").replace(":", " ").split()
    assert {name for names in OPTIONS.values() for name in names} | set(OPTIONS) <= set(words)


@pytest.fixture(scope="module")
def pages() -> dict[str, list[str]]:
    """The lines of each option's page, by the page's first line; one composition gives many groups' pages."""
    found: dict[str, list[str]] = {}
    many = [[f"{group}={name}" for name in names] for group, names in OPTIONS.items() if "exp" not in group]
    experiments = [[f"{group}={name}"] for group, name in EVERY if group == "experiment"]
    for overrides in [*zip_longest(*many), *experiments]:
        for text in helped(*filter(None, overrides)).split("\n\n\n"):
            found[text.partition("\n")[0]] = text.splitlines()
    return found


@pytest.mark.parametrize(("group", "name"), EVERY, ids=lambda part: part)
def test_the_page_of_every_option_fits_80_columns_and_shows_commands(group, name, pages):
    lines = pages[f"{group}={name}"]
    assert [line for line in lines if len(line) > 80] == []
    commands = lines[lines.index("Commands") + 1 :]
    assert any(line.startswith("  python -m sr_lab ") for line in commands)
    assert "cannot be read" not in " ".join(lines)


@pytest.mark.parametrize("target", sorted(set(targets())))
def test_arguments_and_defaults_are_those_of_the_signature(target):
    module, _, name = target.rpartition(".")
    ours = source.read(target)
    assert ours is not None
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    named = [each.name for each in signature.parameters.values() if each.kind is not each.VAR_POSITIONAL]
    if named == ["kwargs"]:  # a module without a constructor of its own
        named = []
    assert [argument.name for argument in ours.arguments] == named
    for argument in ours.arguments:
        default = signature.parameters[argument.name].default
        if default is inspect.Parameter.empty:
            assert argument.default is None
        else:
            assert argument.default is not None
            assert ast.literal_eval(argument.default) == default
    assert [argument.name for argument in ours.arguments if not argument.meaning] == []


@pytest.mark.parametrize("name", OPTIONS["model"])
def test_the_page_of_a_network_has_a_line_for_each_argument(name, pages):
    lines = pages[f"model={name}"]
    settings = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    found = source.read(settings["_target_"])
    assert found is not None
    for argument in found.arguments:
        begin = f"  {argument.name}="
        if argument.name not in settings and argument.default is not None:
            begin += str(page.default_of(argument))
        assert any(line.startswith(begin) for line in lines), argument.name


@pytest.mark.parametrize("name", one_of_each_class(OPTIONS["model"]))
def test_the_tails_and_strategies_of_a_page_are_those_that_the_network_takes(name):
    settings = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text())
    found = source.read(settings["_target_"])
    assert found is not None
    module, _, of_class = settings.pop("_target_").rpartition(".")
    network_class = getattr(importlib.import_module(module), of_class)
    accepted = inspect.signature(network_class).parameters
    small = {key: value for key, value in SHRUNKEN.items() if key in accepted}
    own = functools.partial(network_class, **settings | small | {"scale": 4, "upsampler": None})
    with unfilled():
        taken = {
            "cwss": works(lambda: cwss.apply(own())),
            "ggas": works(lambda: ggas.apply(own())),
        }
        replaced = works(lambda: own(upsampler=DeconvUpsampler))
    taken |= {"none": True, "ggas_cwss": all(taken.values())}
    assert set(network.strategies(found, STRATEGIES)) == {each for each, fits in taken.items() if fits}
    if name != "memnet_original":  # its page says that only one form of MemNet takes other tails
        assert ("deconv" in network.upsamplers(found, TAILS)) == replaced
    assert network.takes_any_tail(found) == (replaced and name != "memnet")


def works(build: Callable[[], object]) -> bool:
    try:
        build()
    except ConfigError:
        return False
    return True


def test_the_page_of_imfm_says_what_a_reader_needs():
    said = " ".join(helped("model=imfm").split())
    for fact in (
        "num_feat=40 Width of the trunk.",
        "num_path_feat=null Channels of a path (m); null takes half of num_feat.",
        "One of h_swish, h_sigmoid.",
        "upsampler= native, deconv, mwaum, pa, rbwa, stepwise, subpixel",
        "strategy= none, cwss, ggas, ggas_cwss",
        "x4 598.4 46.5",
        "the authors' code was not available",
        "python -m sr_lab -m model=imfm upsampler=native,deconv",
    ):
        assert fact in said, fact


def test_the_page_of_a_network_with_published_weights_says_where_they_are_from():
    said = " ".join(helped("model=bsrn").split())
    assert "Authors' code: github.com/xiaom233/BSRN (MIT). sr_lab opens the authors' checkpoints:" in said
    assert "x4 32.35 28.73 27.65 26.27 30.84" in said  # as the papers print


def test_the_page_of_a_table_has_rows_data_and_printed_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine/benchmarks/Set5/HR").mkdir(parents=True)
    lines = helped("experiment=osffnet/table2_osff", "paths.data_dir=mine").splitlines()
    said = " ".join(" ".join(lines).split())
    for fact in (
        "Table 2: OISI, SFGC and MFDF, on and off",
        "Rows at scale=4: 8 jobs",
        "000 +model.oisi=false +model.sfgc=false +model.mfdf=false",
        "111 (no change)",
        "steps=100000",
        "budget=auto The paper's budget on a GPU",
        "Data in mine (paths.data_dir or SR_LAB_DATA)",
        "there benchmarks/Set5/HR",
        "missing benchmarks/Set14/HR",
        "python -m sr_lab task=prepare dataset=df2k benchmark=four",
        "111 x4 537 32.25",
    ):
        assert fact in said, fact


def test_a_comment_is_not_shown_for_a_value_that_another_file_replaces():
    lines = helped("experiment=osffnet/fig7_training_curves").splitlines()
    assert "  validation.interval=1000" in lines
    assert any(line.startswith("  validation.count=10 ") and "not stated; chosen" in line for line in lines)


def test_typed_values_are_shown_and_hide_figures_that_do_not_apply_to_them():
    said = helped("model=imdn", "+model.num_feat=32")
    assert "  num_feat=32" in said
    assert "The class's default is 64." in " ".join(said.split())
    assert "Size (" not in said


def test_several_options_get_a_page_each():
    lines = helped("model=imfm", "upsampler=mwaum").splitlines()
    assert "model=imfm" in lines
    assert "upsampler=mwaum" in lines
    assert any("Chosen by upsampler=mwaum." in line for line in lines)


def test_a_library_class_is_described_by_its_arguments():
    said = " ".join(helped("optimizer=adam").split())
    assert "betas=[0.9, 0.999], eps=1e-08" in said
    assert "Taken from learning_rate=0.0002." in said


MINE = '''
"""My network."""
raise RuntimeError("imported")
class Net:
    """Mine, \\x1b]0;evil\\x07 of course.

    Args:
        scale: Factor.
        width: How wide.
    """
    def __init__(self, *, scale: int, width: int = 7) -> None: ...
'''


def test_a_users_own_option_shows_its_docstring_without_being_imported(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(
        "# Mine.\n_target_: mine.Net\nscale: ${scale}  # as everywhere\n"
    )
    search = f"hydra.searchpath=[file://{tmp_path}/conf]"
    done = sr_lab(tmp_path, search, "allow=[mine]", "model=mine", "--help")
    assert done.returncode == 0, done.stderr
    assert "Class mine.Net" in done.stdout
    assert "  width=7  How wide." in done.stdout
    assert "\x1b" not in done.stdout


def test_an_unknown_option_is_refused_just_as_without_help(tmp_path):
    done = sr_lab(tmp_path, "model=imfn", "--help")
    assert done.returncode == 2
    assert "model: there is no option 'imfn'" in done.stderr
    assert "did you mean 'imfm'?" in done.stderr


def test_a_paragraph_is_wrapped_and_its_control_characters_are_escaped():
    assert layout.wrapped("a\x1b[2J " + "word " * 30, indent=2)[0].startswith("  a\\x1b[2J word")
    assert layout.pairs([("name", "meaning"), ("x" * 40, "long")]) == [
        "  name  meaning",
        f"  {'x' * 40}",
        "        long",
    ]


@pytest.mark.parametrize("path", ["", "nothing", "no.such.module.Name", "..a.b", "os.path.nothing", "a/b.C"])
def test_no_source_is_found_for_a_class_that_cannot_be_read(path):
    assert source.read(path) is None


def test_a_damaged_source_is_not_an_error(tmp_path, monkeypatch):
    Path(tmp_path, "damaged_source.py").write_text("class (:")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert source.read("damaged_source.Net") is None
