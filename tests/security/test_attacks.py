"""The 60 attacks by downloaded files: no code runs, no secret leaks, and one sentence reports the attack.

============================  =======================================================================
Attacks                       Tested in
============================  =======================================================================
config, 14 kinds              direct, alias, partial, ``_args_``, ``_recursive_`` of 21 gadgets:
                              tests/config/test_targets.py; Hydra's own settings in a separate process:
                              tests/config/test_hydra_guard.py; the rest here
checkpoints, 14               ``__reduce__``: tests/checkpoints/test_checkpoints.py; the rest here
archives and downloads, 9     tests/datasets/test_archives.py (links, devices, bombs, ``../``) and
                              tests/datasets/test_download.py (hashes, lengths, redirects, mirrors)
images, 8                     here
reports, 9                    HTML in a browser: tests/reporting/test_page.py; the rest here
run folders, 6                second process: tests/test_run_folder.py; ONNX with external data and the
                              rest here
============================  =======================================================================

``sweep.json`` and the names of sets are attacked here too; the demo page is tested in
tests/tasks/test_demo_task.py.
"""

import contextlib
import copy
import csv
import io
import json
import pickle
import re
import struct
import time
import traceback
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import scipy.io
import torch
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from onnx.external_data_helper import set_external_data
from PIL import ImageFile

from sr_lab import files
from sr_lab.api import load, upscale
from sr_lab.checkpoints.opening import open_configured
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.config import hydra_guard
from sr_lab.config.compose import to_yaml
from sr_lab.config.identity import register_resolvers
from sr_lab.config.messages import explain
from sr_lab.config.schema import TrainConfig
from sr_lab.config.untrusted import settled, stored_network
from sr_lab.datasets.images import read_image
from sr_lab.errors import CheckpointError, ConfigError, DataError, SRLabError
from sr_lab.inference.backends import run_by
from sr_lab.reporting import crops, page, saved_images
from sr_lab.reporting.experiment import experiment_table
from sr_lab.reporting.latex import to_latex
from sr_lab.reporting.markdown import to_markdown
from sr_lab.reporting.runs import find_runs
from sr_lab.reporting.safe_csv import csv_text, runs_to_csv, table_to_csv
from sr_lab.run_folder import RunFolder, read_index
from sr_lab.runs import sweep
from sr_lab.tasks import train
from sr_lab.training.checkpointing import DurableCheckpointIO
from tests.command_line import sr_lab
from tests.composing import compose
from tests.inference.test_backends import PlusMean
from tests.pictures import run_folder
from tests.security import hostile

SMOKE = ("trainer=cpu", "budget=smoke")
RUN = "torch.utils.collect_env.run"  # a shell
HYDRAS = (ConfigError, HydraException, OmegaConfBaseException)


@pytest.fixture(autouse=True, scope="module")
def _guarded():
    register_resolvers()
    with hydra_guard.guarded():
        yield


@pytest.fixture(name="mark")
def _mark(tmp_path):
    """The file that a payload would create; the payload must not do anything else either."""
    with hostile.nothing_runs():
        yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()


def sentence(*overrides: str) -> str:
    """The message that the command line prints about a configuration that it refuses."""
    with pytest.raises(HYDRAS) as caught:
        compose(*SMOKE, *overrides)
    said = explain(caught.value)
    assert said is not None
    assert "\n" not in said
    return said


def with_file(folder: Path, text: str) -> tuple[str, str]:
    """The overrides that choose an experiment from an untrusted folder."""
    (folder / "experiment").mkdir()
    (folder / "experiment" / "sly.yaml").write_text(text)
    return f"hydra.searchpath=[file://{folder}]", "experiment=sly"


# Configurations


def test_a_target_made_of_interpolations_is_checked_after_it_is_resolved(tmp_path, mark):
    text = f"# @package _global_\nloss: {{_target_: 'torch.utils.${{b}}.run', command: touch {mark}}}\n"
    assert "b: there is no such setting" in sentence(*with_file(tmp_path, f"{text}b: collect_env\n"))
    both = "experiment_name: collect_env\nloss: {_target_: 'torch.utils.${experiment_name}.run'}\n"
    (tmp_path / "experiment" / "sly.yaml").write_text(f"# @package _global_\n{both}")
    assert f"'{RUN}' may not be named here" in sentence(
        f"hydra.searchpath=[file://{tmp_path}]", "experiment=sly"
    )


@pytest.mark.parametrize("tag", ["object/apply:os.system [touch {}]", "name:os.system", "module:os"])
def test_a_python_tag_in_yaml_builds_no_object(tmp_path, mark, tag):
    text = f"# @package _global_\nseed: !!python/{tag.format(mark)}\n"
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="could not determine a constructor"):
        files.read_yaml(tmp_path / "config.yaml")
    with pytest.raises(Exception, match="could not determine a constructor"):
        compose(*SMOKE, *with_file(tmp_path, text))


EVIL = "{{_target_: torch.utils.collect_env.run, command: touch {mark}}}"
SLY = [
    ("hydra.launcher.x", "# @package hydra.launcher\nx: " + EVIL),
    ("hydra.sweeper.params", "# @package hydra.sweeper\nparams: {{seed: " + EVIL + "}}"),
    (
        "hydra.sweeper.params",
        "# @package _global_\nz: " + EVIL + "\nhydra: {{sweeper: {{params: {{a: '${{z}}'}}}}}}",
    ),
    ("hydra.launcher", "# @package hydra.launcher\n_target_: torch.utils.collect_env.run\n"),
    ("hydra.callbacks", "# @package hydra.callbacks\nx: " + EVIL),
    ("hydra.job.env_set", "# @package hydra.job.env_set\nLD_PRELOAD: {mark}"),
    (
        "hydra.job_logging",
        "# @package hydra.job_logging\nhandlers: {{x: {{(): torch.utils.collect_env.run}}}}",
    ),
    (
        "hydra.job_logging",
        "# @package hydra.job_logging\nhandlers: {{x: {{class: logging.FileHandler, filename: {mark}}}}}",
    ),
    (
        "hydra.job_logging",
        "# @package _global_\nz: {{x: {{class: logging.FileHandler}}}}\n"
        "hydra: {{job_logging: {{handlers: '${{z}}'}}}}",
    ),
    (
        "hydra.job_logging",
        "# @package hydra.job_logging\nhandlers: {{x: {{class: logging.handlers.QueueHandler}}}}",
    ),
    ("hydra.run.dir", "# @package hydra.run\ndir: {mark}"),
    ("hydra.sweep.dir", "# @package hydra.sweep\ndir: {mark}"),
    ("hydra.sweep.subdir", "# @package hydra.sweep\nsubdir: ../../{mark}"),
    ("hydra.output_subdir", "# @package hydra\noutput_subdir: ../.."),
]


@pytest.mark.parametrize(("place", "text"), SLY, ids=[f"{n}-{place}" for n, (place, _) in enumerate(SLY)])
def test_a_file_cannot_change_settings_of_hydra(tmp_path, mark, place, text):
    assert place in sentence(*with_file(tmp_path, text.format(mark=mark)))


@pytest.mark.parametrize("options", [[], ["hydra/job_logging=default"], ["hydra/job_logging=disabled"]])
def test_hydras_own_settings_are_accepted(options):
    """Otherwise, code that refused everything would pass the test above. Both options of the group load."""
    compose(*SMOKE, *options)


@pytest.mark.parametrize(
    "setting",
    [
        *("setup: [touch {}]", 'comment: "a\\ntouch {}"', "additional_parameters: {{wrap: touch {}}}"),
        *("timeout_min: 0", "submitit_folder: '{}'"),
    ],
)
def test_a_file_cannot_change_how_a_launcher_starts_its_jobs(tmp_path, mark, setting):
    """Such settings end up in a script for the cluster; submitit reads pickles for jobs that timed out."""
    text = setting.format(mark)
    key = text.partition(":")[0]
    said = sentence(
        *with_file(tmp_path, f"# @package hydra.launcher\n{text}"), "hydra/launcher=submitit_slurm"
    )
    assert re.match(rf"hydra\.launcher\.{key}.*not allowed in a file", said)
    compose(*SMOKE, "hydra/launcher=submitit_slurm", "hydra.launcher.setup=[x]", "hydra.launcher.comment=x")


@pytest.mark.parametrize("group", ["launcher", "sweeper"])
def test_a_file_does_not_choose_who_starts_the_jobs(tmp_path, mark, monkeypatch, group):
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))
    store.store(group=f"hydra/{group}", name="mine", node={"_target_": "hydra_plugins.mine.Mine"})
    choice = f"override /hydra/{group}: mine"
    more = with_file(tmp_path, f"# @package _global_\ndefaults: [{choice}]\n")
    assert f"hydra/{group}: 'mine' is not allowed in a file" in sentence(*more)
    compose(*SMOKE, f"hydra/{group}=mine")
    path = tmp_path / "experiment" / "sly.yaml"
    path.write_text(f"# @package _global_\ndefaults: [/hydra/{group}/mine@hydra.{group}]\n")
    assert f"hydra.{group}._target_: is not allowed in a file (hydra/{group}/mine.yaml)" in sentence(*more)


@pytest.mark.parametrize("option", ["job_logging/sly", "launcher/basic", "config"])
def test_an_option_of_hydra_does_not_come_from_an_untrusted_folder(tmp_path, mark, option):
    """It would take the place of Hydra's own option of that name."""
    path = tmp_path / "hydra" / f"{option}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"handlers: {{x: {{(): {RUN}, command: touch {mark}}}}}\n")
    group, _, name = option.rpartition("/")
    chosen = f"defaults: [override /hydra/{group}: {name}]\n" if group else ""
    said = sentence(*with_file(tmp_path, f"# @package _global_\n{chosen}"))
    assert said == f"{path}: a file may not contain options of Hydra; remove this file"


@pytest.mark.parametrize("group", ["launcher", "sweeper"])
def test_a_typed_reference_to_a_file_builds_nothing(tmp_path, mark, monkeypatch, group):
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))
    store.store(group=f"hydra/{group}", name="mine", node={"_target_": "hydra_plugins.mine.Mine", "more": {}})
    more = with_file(tmp_path, f"# @package _global_\nrows: {EVIL.format(mark=mark)}\n")
    said = sentence(*more, f"hydra/{group}=mine", f"+hydra.{group}.more.x=${{rows}}")
    assert said == f"hydra.{group}.more: contains a _target_; remove it"


@pytest.mark.slow
def test_an_object_in_the_settings_of_the_sweeper_is_not_built(tmp_path):
    text = SLY[1][1].format(mark=tmp_path / "ran")
    done = sr_lab(tmp_path, "-m", *with_file(tmp_path, text), *SMOKE)
    assert not (tmp_path / "ran").exists()
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


@pytest.mark.parametrize(
    "setting", [f"callbacks.x={{_target_: {RUN}}}", "job.env_set.A=b", "job.env_copy=[HOME]"]
)
def test_the_command_line_may_not_name_a_hydra_callback_or_store_the_environment_either(mark, setting):
    assert "is not supported" in sentence(f"+hydra.{setting}")


def test_a_variable_that_hydra_should_copy_and_that_is_missing_is_named():
    assert "no variable 'NO_SUCH'" in sentence("hydra.job.env_copy=[NO_SUCH]")


@pytest.mark.parametrize(
    ("package", "text", "typed", "place"),
    [
        (
            *("hydra.launcher", "submitit_folder: /tmp/pickles"),
            *("hydra.launcher.timeout_min=5", "hydra.launcher.submitit_folder"),
        ),
        (
            *("hydra.sweeper", "params: {allow: '[evil]'}"),
            *("+hydra.sweeper.params.seed=1", "hydra.sweeper.params.allow"),
        ),
    ],
)
def test_a_setting_on_the_command_line_does_not_allow_a_neighbouring_setting_in_a_file(
    tmp_path, package, text, typed, place
):
    more = with_file(tmp_path, f"# @package {package}\n{text}\n")
    said = sentence(*more, "hydra/launcher=submitit_slurm", typed)
    assert re.match(rf"{re.escape(place)}: .*not allowed in a file", said)


SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "override",
    [
        "experiment_name=${oc.env:WANDB_API_KEY}",
        "+logger.wandb.notes=x-${oc.env:HF_TOKEN}-x",
        "logger.wandb.tags=[a,'${oc.env:AWS_SECRET_ACCESS_KEY}']",
        "+model.api_key=abc",
        "+logger.wandb.settings.api_key=abc",
        "+logger.wandb.password=abc",
        "paths.data_dir='https://me:hunter2@example.org/data'",
        "paths.data_dir='https://example.org/data?X-Amz-Signature=1&token=abc'",
        f"+logger.wandb.notes={SECRET}",
    ],
)
def test_no_secret_is_stored(monkeypatch, mark, override):
    for name in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, SECRET)
    said = sentence(override)
    assert "secret" in said
    for secret in (SECRET, "abc", "hunter2"):
        assert secret not in said


@pytest.mark.parametrize(
    "word", ["key", "token", "secret", "password", "passwd", "passphrase", "credential", "credentials", "jwt"]
)
def test_each_name_of_a_secret_is_refused_and_longer_words_are_not(word):
    for name in (word, f"my_{word}", word.upper()):
        with pytest.raises(ConfigError, match=f"{name}: is a secret"):
            settled({"logger": [{"x": {name: "abc"}}]}, {}, ())
    settled({f"{word}izer": "abc", f"un{word}": "abc", word: 3}, {}, ())


@pytest.mark.parametrize(
    "word", ["key", "api_key", "token", "access_token", "sig", "signature", "password", "Token"]
)
def test_each_name_of_a_secret_in_an_address_is_refused(word):
    for address in (f"https://example.org/a?{word}=abc", f"https://example.org/a?b=c&{word}=abc"):
        with pytest.raises(ConfigError, match=r"^a\.b: contains a secret"):
            settled({"a": {"b": [address]}}, {}, ["a.b=typed"])
    settled({"a": f"https://example.org/{word}=abc", "b": "?tokens=3", "c": "://a/b:c@d"}, {}, ["a=x", "c=x"])


OUT = [
    "/x",
    "~/x",
    "..",
    "../x",
    "a/..",
    "a/../x",
    "a::b",
    "a://b",
    "$HOME",
    "{step.__class__}",
    "{0}",
    "{a.b}",
]
BELOW = ["", "x/y", "a..b", "..a", "{val/psnr_y:.2f}", "best-{step}"]


@pytest.mark.parametrize("place", ["callbacks", "logger", "trainer"])
def test_a_path_of_a_file_stays_below_the_run_folder(place):
    def placed(text: object, *overrides: str) -> object:
        node = {"_target_": "a::b", "many": [{"dirpath": text}], "dirpath": text, "filename": text}
        return settled({place: {"profiler": node}}, {}, overrides)[place]["profiler"]

    for text in OUT:
        with pytest.raises(
            ConfigError,
            match=rf"^{place}\.profiler\..*a file may not (lead out of the run folder|name a server)",
        ):
            placed(text)
        with pytest.raises(ConfigError, match="a file may not"):
            settled({place: {"profiler": {"many": [[text]]}}}, {}, ())
        typed = placed(text, f"{place}.profiler={{a: 1}}")
        assert isinstance(typed, dict)
        assert (typed["filename"], typed["_target_"]) == (text, "a::b")
        assert typed["dirpath"] == str(Path(text).expanduser().absolute())
    assert settled({"paths": {"data_dir": "~/x"}}, {}, ["paths.data_dir=~/x"]) == {
        "paths": {"data_dir": "~/x"}
    }
    for text in BELOW:
        assert placed(text) == {
            "_target_": "a::b",
            "many": [{"dirpath": text}],
            "dirpath": text,
            "filename": text,
        }


def test_a_secret_in_the_environment_has_at_least_eight_characters(monkeypatch):
    monkeypatch.setenv("MY_KEY", "1234567")
    settled({"a": "1234567"}, {}, ())
    monkeypatch.setenv("MY_KEY", "12345678")
    with pytest.raises(ConfigError, match=r"^a: contains a secret"):
        settled({"a": ["x-12345678-x"]}, {}, ())


def test_a_value_that_is_not_a_secret_is_stored(monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "train")
    monkeypatch.setenv("MY_KEY", "train")  # too short for a secret
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    stored = to_yaml(compose(*SMOKE, "paths.data_dir='https://example.org/a@b?c=d'"))
    assert "https://example.org/a@b?c=d" in stored
    assert SECRET not in stored


def test_a_kilobyte_of_anchors_that_expands_to_a_billion_values_is_refused(tmp_path, mark):
    path = tmp_path / "config.yaml"
    for text in (hostile.laughs(), "a: &a [*a]\n", "a: " + "[" * 5000 + "]" * 5000, "a: &a {b: *a}\n"):
        path.write_text(text)
        begun = time.process_time()
        with pytest.raises(ConfigError, match="is not a valid configuration"):
            hydra_guard.check_size(path)
        with pytest.raises(ValueError, match=r"expands to|flow|depth"):
            files.read_yaml(path)
        assert time.process_time() - begun < 1
    path.write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert files.read_yaml(path) == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_ten_megabytes_of_yaml_are_refused(tmp_path, mark):
    path = tmp_path / "config.yaml"
    path.write_text("a: 1\n" + "# padding\n" * 2**20)
    with pytest.raises(ConfigError, match="it has more than 1048576 bytes"):
        hydra_guard.check_size(path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--config-dir={0}", "experiment=sly"), "more than 100000 values"),
        (("--config-path={0}/experiment", "--config-name=sly"), "it expands to more than"),
    ],
    ids=["group", "primary"],
)
def test_the_command_line_limits_what_it_reads(tmp_path, arguments, said):
    with_file(tmp_path, hostile.laughs())
    done = sr_lab(tmp_path, *(argument.format(tmp_path) for argument in arguments), *SMOKE, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("key", ["__class__", "__init__", "__proto__", "__reduce__", "_target_.x", "self"])
def test_a_special_python_name_is_not_accepted_as_a_setting(mark, key):
    assert "error" not in sentence(f"+model.{key}=1")
    assert "error" not in sentence(f"+{key}=1")


@pytest.mark.parametrize(
    "override",
    [
        *("experiment_name=../../x", "experiment_name=/etc/x", "experiment_name=a/../../x"),
        *("experiment_name='a\nb'", "experiment_name='a\n'", "experiment_name=~/x"),
        *("run_name=../../x", "run_name='a\x00b'", "run_name='a\n'", f"run_name={'a' * 300}", "run_name=.."),
        *("experiment=../../x", "experiment=/etc/passwd", "model=../../../etc/passwd", "model='imdn\n'"),
    ],
)
def test_no_name_leaves_its_folder(mark, override):
    sentence(override)


# Checkpoints


def opened(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    return open_checkpoint(str(path))


def bypasses(mark: Path) -> dict[str, bytes]:
    """Pickles that pickle scanners accepted (from picklescan's advisories); each would create ``mark``."""
    touch = f"open({str(mark)!r}, 'w').close()"
    nested = hostile.call("timeit timeit", "pass", touch)
    broken = hostile.call("timeit timeit", "pass", touch)[:-1]  # the call runs before the stream breaks
    blob = nested.decode("latin1").encode().decode()
    return {
        "operator.attrgetter": hostile.call("operator attrgetter", "system"),
        "pkgutil.resolve_name": hostile.call("pkgutil resolve_name", "os:system"),
        "pip.main": hostile.call("pip main", "install"),
        "ensurepip": hostile.call("ensurepip _run_pip", "install"),
        "timeit": hostile.call("timeit timeit", "pass", touch),
        "pdb.run": hostile.call("pdb run", touch),
        "nested pickle": hostile.call("pickle loads", blob),
        "joblib": hostile.call("joblib load", str(mark)),
        "numpy": hostile.call("numpy.f2py.crackfortran getlincoef", touch),
        "broken stream": broken,
        "builtins.eval": hostile.call("builtins eval", touch),
        "torch's own": hostile.call(RUN.replace(".run", " run"), f"touch {mark}"),
    }


@pytest.mark.parametrize("form", ["legacy", "zip", "state_dict", "hyper_parameters"])
@pytest.mark.parametrize("name", bypasses(Path("x")))
def test_a_pickle_that_scanners_accept_does_not_run(tmp_path, mark, name, form):
    pickled = bypasses(mark)[name]
    body = pickled[2:].rstrip(b".")
    key = b"X" + struct.pack("<I", len(form)) + form.encode()
    content = {"legacy": pickled, "zip": hostile.in_zip(pickled)}.get(form) or hostile.in_zip(
        b"\x80\x02}" + key + body + b"s."
    )
    with pytest.raises(CheckpointError, match="would run code") as caught:
        opened(tmp_path / "a.ckpt", content)
    assert "\n" not in str(caught.value)


def test_the_pickles_above_would_run_with_plain_pickle(tmp_path):
    """Otherwise the test above would pass with harmless pickles."""
    for name in ("timeit", "broken stream", "builtins.eval"):
        ran = tmp_path / name
        try:
            pickle.loads(bypasses(ran)[name])
        except (EOFError, pickle.UnpicklingError):
            assert name == "broken stream"
        assert ran.exists()


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        ("builtins bytearray", "a", "latin1"),  # called with a number, it makes that many bytes
        ("_codecs encode", "aa", "hex"),  # each nested call doubles the number of bytes
        ("torch Tensor",),  # nested lists expand to any amount of numbers
        ("torch FloatTensor",),
        ("torch._utils _rebuild_device_tensor_from_cpu_tensor", "a"),  # expands a repeated number
    ],
)
def test_a_pickle_cannot_turn_a_few_bytes_into_many(tmp_path, mark, call, zipped):
    pickled = hostile.call(*call)
    with pytest.raises(CheckpointError, match=rf"would run code \([\w.]*{call[0].split()[1]}\)"):
        opened(tmp_path / "a.ckpt", hostile.in_zip(pickled) if zipped else pickled)


def test_a_torchscript_archive_is_refused(tmp_path, mark):
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "a.pt"))
    with pytest.raises(CheckpointError, match="would run code"):
        open_checkpoint(str(tmp_path / "a.pt"))


def state(**weights: torch.Tensor) -> bytes:
    content = io.BytesIO()
    torch.save(weights, content)
    return content.getvalue()


def test_two_entries_with_one_name_are_refused(tmp_path, mark):
    content = io.BytesIO(state(w=torch.ones(1)))
    with zipfile.ZipFile(content, "a") as archive, warnings.catch_warnings(action="ignore"):
        name = next(entry for entry in archive.namelist() if entry.endswith("data.pkl"))
        archive.writestr(name, hostile.call("builtins eval", "1"))
    with pytest.raises(CheckpointError, match="is damaged"):
        opened(tmp_path / "a.ckpt", content.getvalue())


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, mark):
    zeros = hostile.in_zip(
        pickle.dumps({"w": 1}, 2), ("data/0", bytes(2**27)), compression=zipfile.ZIP_DEFLATED
    )
    assert len(zeros) < 2**18
    with pytest.raises(CheckpointError, match="is damaged"):
        opened(tmp_path / "a.ckpt", zeros)
    stored = bytearray(hostile.in_zip(pickle.dumps({"w": 1}, 2)))
    place = stored.rindex(b"PK\x01\x02")
    stored[place + 24 : place + 28] = struct.pack("<I", 2**31)  # claims more bytes than the file has
    with pytest.raises(CheckpointError, match="is damaged"):
        opened(tmp_path / "b.ckpt", bytes(stored))


@pytest.mark.parametrize(
    ("shape", "stride"),
    [
        ((2**62,), (1,)),
        ((2**31, 2**31), (2**31, 1)),
        ((10**6, 10**6), (0, 0)),
        ((4,), (0,)),
        ((2, 3), (1, 1)),
    ],
    ids=["2^62", "2^31 squared", "a terabyte of one number", "four of one", "overlapping rows"],
)
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, mark, shape, stride):
    pickled = hostile.tensor_pickle(shape, stride, 2)
    with pytest.raises(CheckpointError, match=r"is damaged|holds no state dict"):
        opened(tmp_path / "a.ckpt", hostile.in_zip(pickled, ("data/0", bytes(8))))


def test_a_tensor_that_fits_its_storage_is_opened(tmp_path):
    """Otherwise, code that refused every tensor would pass the test above."""
    pickled = hostile.tensor_pickle((2,), (1,), 2)
    checkpoint = opened(tmp_path / "a.ckpt", hostile.in_zip(pickled, ("data/0", bytes(8))))
    assert checkpoint.state["w"].tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(2, 2, device="meta"),
        lambda: torch.eye(2).to_sparse(),
        lambda: torch.eye(2).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.ones(2, 2), 1.0, 0, torch.qint8),
        lambda: torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]),
    ],
    ids=["meta", "sparse", "csr", "quantized", "nested"],
)
def test_a_tensor_that_is_not_plain_is_refused(tmp_path, make):
    for content in ({"w": make()}, {"sr_lab": {}, "state_dict": {"network.w": make()}}):
        torch.save(content, tmp_path / "a.ckpt")
        with pytest.raises(CheckpointError):
            open_checkpoint(str(tmp_path / "a.ckpt"))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "bool", "int8", "complex64"])
def test_weights_of_any_dtype_are_loaded_or_refused(tmp_path, dtype):
    network = torch.nn.Linear(2, 2, bias=False)
    weight = torch.eye(2).to(getattr(torch, dtype))
    checkpoint = opened(tmp_path / "a.ckpt", state(weight=weight))
    if weight.is_floating_point():
        load_weights(network, checkpoint)
        assert torch.equal(network.weight, torch.eye(2))
    else:
        with pytest.raises(CheckpointError, match="1 of another type"):
            load_weights(network, checkpoint)


@pytest.mark.parametrize(
    "content",
    [
        hostile.safetensors(b"{}", length=2**30),
        hostile.safetensors(b"{}", length=2**63),
        hostile.safetensors(
            {f"w{n}": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "ab"}, bytes(8)
        ),
        hostile.safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
        hostile.safetensors(
            {"w": {"dtype": "F32", "shape": [2**31, 2**31], "data_offsets": [0, 4]}}, bytes(4)
        ),
        hostile.safetensors(
            {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4) + hostile.in_zip(b".")
        ),
        hostile.in_zip(hostile.call("builtins eval", "1")),
        hostile.safetensors(b'{"w":' * 10_000),
    ],
    ids=["header", "header 2^63", "overlap", "hole", "2^62", "polyglot", "zip", "deep"],
)
def test_a_false_safetensors_header_is_refused(tmp_path, mark, content):
    with pytest.raises(CheckpointError, match=r"is damaged|is a PyTorch file"):
        opened(tmp_path / "a.safetensors", content)


def test_a_checkpoint_with_a_dictconfig_inside_is_refused(tmp_path, mark):
    torch.save({"state_dict": {}, "hyper_parameters": OmegaConf.create({"a": 1})}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="would run code"):
        open_checkpoint(str(tmp_path / "a.ckpt"))


def record(**model: object) -> dict[str, object]:
    none = {"name": "none", "apply": None}
    return {"model": model, "upsampler": {"name": "native", "factory": None}, "strategy": none, "scale": 2}


@pytest.mark.parametrize("target", [RUN, "os.system", "torch.hub.load", "torch.nn.Linear", "antigravity.x"])
def test_an_untrusted_class_in_a_checkpoint_is_not_built(mark, target):
    with pytest.raises(ConfigError, match="may not be named here"):
        stored_network(record(_target_=target, command=f"touch {mark}"), "a.ckpt")
    nested = record(_target_="sr_lab.models.imdn.IMDN", num_feat={"_target_": target})
    with pytest.raises(ConfigError, match="may not be named here"):
        stored_network(nested, "a.ckpt")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("size", [{"num_block": 10**9}, {"num_feat": 2**14}], ids=["blocks", "features"])
def test_a_record_of_a_network_far_larger_than_its_weights_is_refused(tmp_path, mark, size):
    described = record(_target_="sr_lab.models.imdn.IMDN", scale=2, **size)
    torch.save({"sr_lab": described, "state_dict": {"network.w": torch.ones(1)}}, tmp_path / "a.ckpt")
    for open_it in (
        lambda: load(tmp_path / "a.ckpt"),
        lambda: open_configured(
            compose("task=upscale", "input=x", "output=y", f"ckpt={tmp_path}/a.ckpt"), (), print
        ),
    ):
        with pytest.raises(CheckpointError, match="far larger network than it has weights for"):
            open_it()


def test_a_record_that_expands_to_a_billion_values_is_refused(tmp_path, mark):
    values: list[object] = ["x"]
    for _ in range(40):
        values = [values, values]
    itself: dict[str, object] = {}
    itself["x"] = itself
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    for odd in ([0] * 20_000, deep, values, itself):
        with pytest.raises(ConfigError, match="has no complete description of its network"):
            stored_network(record(_target_="sr_lab.models.imdn.IMDN", x=odd), "a.ckpt")


def test_a_record_may_name_a_class_of_a_trusted_package(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text("from torch import nn\nclass Net(nn.Identity): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    named = record(_target_="my_networks.Net")
    assert stored_network(named, "a.ckpt", ["my_networks"]).model == named["model"]
    with pytest.raises(ConfigError, match="may not be named here"):
        stored_network(named, "a.ckpt")


def test_a_checkpoint_that_contains_itself_is_refused(tmp_path, mark):
    content: dict[str, object] = {}
    content["state_dict"] = content
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        open_checkpoint(str(tmp_path / "a.ckpt"))


def test_a_checkpoint_that_contains_one_dict_a_million_times_is_refused_at_once(tmp_path, mark):
    content: dict[str, object] = {"a": 1}
    for _ in range(6):
        content = {str(number): content for number in range(100)}
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        open_checkpoint(str(tmp_path / "a.ckpt"))


def test_a_matlab_file_that_unpacks_to_a_gigabyte_is_refused(tmp_path, mark):
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(100)) + packer.flush()
    scipy.io.savemat(tmp_path / "a.mat", {"model": {"weight": [1.0]}})
    with (tmp_path / "a.mat").open("ab") as file:
        file.write(struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(CheckpointError, match="is damaged"):
        open_checkpoint(str(tmp_path / "a.mat"))


def matlab(kind: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack("<II", kind, len(content)) + content


@pytest.mark.parametrize("depth", [0, 3000])
@pytest.mark.parametrize("claimed", [1, 2], ids=["cells", "structs"])
def test_a_matlab_file_that_claims_gigabytes_of_cells_or_nests_deeply_is_refused(
    tmp_path, mark, claimed, depth
):
    sizes = matlab(5, struct.pack("<ii", 2**14, 2**14))
    names = matlab(5, struct.pack("<ii", 32, 0)) + matlab(1, b"a".ljust(32, b"\0"))
    made = matlab(14, matlab(6, struct.pack("<II", claimed, 0)), sizes, matlab(1, b"model".ljust(8)), names)
    for _ in range(depth):
        made = matlab(
            14, matlab(6, struct.pack("<II", 1, 0)), matlab(5, struct.pack("<ii", 1, 1)), matlab(1), made
        )
    (tmp_path / "a.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\0\1IM" + made)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError):
            open_checkpoint(str(tmp_path / "a.mat"))
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("packed", [False, True])
def test_a_matlab_struct_of_cells_is_opened_as_scipy_opens_it(tmp_path, packed):
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.arange(6.0).reshape(2, 3), np.float32([[1.5]])
    content = {"other": [1, 2], "text": "x", "model": {"weight": cells, "bias": cells}}
    scipy.io.savemat(tmp_path / "a.mat", content, do_compression=packed)
    state = open_checkpoint(str(tmp_path / "a.mat")).state
    assert list(state) == ["weight.0", "weight.1", "bias.0", "bias.1"]
    assert torch.equal(state["bias.0"], torch.arange(6.0).double().reshape(2, 3))
    assert torch.equal(state["weight.1"], torch.tensor([[1.5]]))


# Images


def refused(path: Path, content: bytes) -> str:
    """The message that each reader of images gives about a file."""
    path.write_bytes(content)
    begun = time.process_time()
    said = []
    for way in (read_image, lambda file: upscale(file, torch.nn.Identity())):
        with pytest.raises(DataError) as caught:
            way(path)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    assert str(path) in said[0]
    assert time.process_time() - begun < 4
    return said[0]


@pytest.mark.parametrize("side", [9500, 65_535, 2**31 - 1])
def test_a_few_bytes_that_claim_many_pixels_are_refused(tmp_path, mark, side):
    assert "pixels" in refused(tmp_path / "a.png", hostile.png(side, side, data=b"x"))


def test_a_large_image_without_pixels_is_refused(tmp_path, mark):
    assert "cannot read" in refused(tmp_path / "a.png", hostile.png(9000, 9000, data=b"x"))


def test_a_drawing_that_compresses_well_is_read(tmp_path):
    """Otherwise, code that refused every image would pass the tests above."""
    (tmp_path / "a.png").write_bytes(hostile.png(5000, 4000, colour=0))
    assert read_image(tmp_path / "a.png").shape == (4000, 5000, 3)


FOREIGN = {
    "fits": b"SIMPLE  =                    T".ljust(80) + b"END".ljust(2800),
    "pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%touch ran) (w) file\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "psd": b"8BPS\0\1" + bytes(20),
    "html": b"<html><script>alert(1)</script></html>",
    "ppm": b"P6 4 4 255 " + bytes(48),
    "tga": bytes(2) + b"\2" + bytes(9) + b"\4\0\4\0\x18\0" + bytes(48),
    "pcx": hostile.picture("PCX"),
    "ico": hostile.picture("ICO"),
    "icns": b"icns\0\0\0\x08",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_whose_content_is_of_another_format_is_refused(tmp_path, mark, kind):
    assert "it is not one of PNG, JPEG" in refused(tmp_path / "a.png", FOREIGN[kind])


MANY = 200_000


@pytest.mark.parametrize(
    "content",
    [
        hostile.png(2, 2, extra=hostile.chunk(b"tEXt", b"k\0v") * MANY),
        hostile.png(2, 2, extra=hostile.chunk(b"zTXt", b"k\0\0") * MANY),
        hostile.png(2, 2, extra=hostile.chunk(b"zzZz", b"") * MANY),
        hostile.png(2, 2, extra=hostile.chunk(b"IDAT", b"") * MANY),
        hostile.picture("JPEG")[:2] + b"\xff\xfe\0\2" * MANY + hostile.picture("JPEG")[2:],
        hostile.gif(0)[:-1] + b"\x21\xfe\0" * MANY + hostile.gif(1)[19:],
    ],
    ids=["text", "packed text", "unknown", "empty data", "jpeg comments", "gif comments"],
)
def test_an_image_with_hundreds_of_thousands_of_chunks_is_refused(tmp_path, mark, content):
    refused(tmp_path / "a.png", content)


def test_a_colour_profile_of_a_hundred_megabytes_is_not_unpacked(tmp_path, mark):
    profile = zlib.compress(bytes(10**8), 9)
    extra = hostile.chunk(b"iCCP", b"x\0\0" + profile)
    assert "cannot read" in refused(tmp_path / "a.png", hostile.png(2, 2, extra=extra))


def test_an_animation_is_refused_without_reading_its_hundred_thousand_frames(tmp_path, mark):
    assert "is animated" in refused(tmp_path / "a.gif", hostile.gif(100_000))


TILES = {322: 2**30, 323: 2**30, 324: 134, 325: 256}


@pytest.mark.parametrize(
    "more",
    [
        {"_273": (4, 1, struct.pack("<I", 2**31))},
        {"_279": (4, 1, struct.pack("<I", 2**32 - 1))},
        {f"_{tag}": (4, 1, struct.pack("<I", value)) for tag, value in TILES.items()},
        {"_256": (4, 1, struct.pack("<I", 2**32 - 1))},
        {"_256": (4, 1, struct.pack("<I", 0))},
        {"_277": (4, 1, struct.pack("<I", 2**20))},
        {"_258": (3, 2**31, bytes(4))},
        {"_259": (4, 1, struct.pack("<I", 5))},
        {"_259": (4, 1, struct.pack("<I", 7))},
        {"_259": (4, 1, struct.pack("<I", 34925))},
    ],
    ids=["place", "length", "tiles", "width", "empty", "samples", "bits", "lzw", "jpeg", "lzma"],
)
def test_a_tiff_with_false_tags_is_refused(tmp_path, mark, more):
    refused(tmp_path / "a.tif", hostile.tiff(hostile.tiff_tags(16, 16, **more), bytes(256)))


def test_a_valid_tiff_is_read(tmp_path):
    """Otherwise, code that refused every TIFF would pass the test above."""
    (tmp_path / "a.tif").write_bytes(hostile.tiff(hostile.tiff_tags(16, 16), bytes([7]) * 400))
    assert (read_image(tmp_path / "a.tif") == 7).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF"])
def test_missing_pixels_are_never_read_as_grey(tmp_path, mark, monkeypatch, kind):
    """Another library may have set Pillow to accept truncated files."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = hostile.picture(kind, size=(120, 90))
    refused(tmp_path / "a.png", whole[: len(whole) // 2])


# Reports

NAMES = {
    "script": "<script>window.ran = 1</script>",
    "attribute": '" onload="window.ran = 1" x="',
    "address": "javascript:window.ran=1",
    "svg": "<svg onload=window.ran=1><script>window.ran=1</script></svg>",
    "style": "</style><script>window.ran=1</script>",
    "template": "{{7*7}}{% for x in [] %}{{ config }}",
    "formula": "=cmd|'/C calc'!A0",
    "latex": "\\input{/etc/passwd}\\write18{touch ran}\n\\immediate\\write18{x}",
    "markdown": "![x](http://127.0.0.1:9/x.png) ![y][z]\r\r[z]: http://127.0.0.1:9/y.png",
    "control": "a\x00b\x1b]0;title\x07\x1b[2J\u202e\ud800\x85c",
}


@pytest.fixture(name="reported", scope="module")
def _reported(tmp_path_factory) -> Path:
    """The report, in every format, on runs where every text is an attack."""
    root = tmp_path_factory.mktemp("reported")
    for number, (kind, text) in enumerate(NAMES.items()):
        folder = run_folder(root, kind, images=("one",), set_name="Set5", seed=number).path
        values = json.loads((folder / "metrics.json").read_text())
        values |= dict.fromkeys(("run", "device", "commit", "date", "budget", "protocol_says", "notes"), text)
        values |= {"identity": {"model": {"_target_": text, text: text}}, text: 1.5, "experiment": text}
        values[f"test/{text}/psnr_y"], values[f"test/{text}/ssim_y"] = 30.0, 0.9
        values["images"].append({"set_name": text, "image": text, "psnr_y": 30.0, "ssim_y": 0.9})
        (folder / "metrics.json").write_text(json.dumps(values))
        (folder / "config.yaml").write_text(json.dumps({"model": {"_target_": text, text: text}, 7: text}))
    failed = root / "failed-00000000"
    failed.mkdir()
    (failed / "failed.txt").write_bytes(f"Traceback\n{NAMES['script']}".encode() + b"\xff\x00\x1b[2J")
    with hostile.nothing_runs():
        runs = find_runs(root)
        grid = experiment_table(runs)
        assert grid is not None
        for picture in saved_images.find(runs):
            crops.write(root / "crops", picture)
        (root / "report.html").write_text(page.render(grid, runs, root=root))
        forms = {
            "md": to_markdown(grid),
            "tex": to_latex(grid),
            "csv": table_to_csv(grid),
            "runs.csv": runs_to_csv(runs),
        }
    for suffix, text in forms.items():
        (root / f"table.{suffix}").write_text(text)
    return root


def test_the_page_about_hostile_runs_executes_no_script_and_sends_no_request(reported, browser):
    browser.open((reported / "report.html").as_uri())
    assert browser.run("window.ran") is None
    assert browser.run("document.querySelectorAll('script').length") == 1
    assert browser.run("document.querySelectorAll('[onload], a[href^=javascript]').length") == 0
    asked = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:") and not url.endswith("/report.html")] == []
    assert browser.named("Page.javascriptDialogOpening") == []
    text = browser.run("document.body.textContent")
    for name in ("script", "template"):
        assert NAMES[name] in text


def test_no_cell_of_a_spreadsheet_starts_a_formula(reported):
    for file in [*reported.rglob("*.csv")]:
        if file.name == "metrics.csv":  # a file of the run itself
            continue
        for row in csv.reader(io.StringIO(file.read_text())):
            for cell in row:
                is_number = cell.replace("-", "").replace(".", "").replace("e", "").isdigit()
                assert is_number or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")), (file, cell)


def test_a_column_name_does_not_start_a_formula_either():
    assert csv_text(["=1+1", "\uff1d1"], [{"=1+1": "@x"}]) == "'=1+1,'\uff1d1\n'@x,\n"


def test_no_name_becomes_a_latex_command(reported):
    for file in [reported / "table.tex", *reported.glob("crops/*.tex")]:
        for line in file.read_text().splitlines():
            said = "" if line.startswith("%") else line
            assert "\\input" not in said
            assert "\\write" not in said
            assert "\\immediate" not in said


def test_no_name_becomes_a_markdown_image(reported):
    text = (reported / "table.md").read_text()
    assert "![" not in text.replace("!\\[", "")
    assert not any(line.lstrip().startswith("[") for line in text.splitlines())
    assert "\r" not in text
    assert "<script" not in text.replace("\\<", "")


@pytest.mark.parametrize("name", ["report.html", "table.md", "table.tex", "table.csv", "table.runs.csv"])
def test_no_output_contains_control_characters(reported, name):
    text = (reported / name).read_text()
    assert not {c for c in text if c < " " and c not in "\n\t"} | ({"\u202e", "\x85", "\x7f"} & set(text))


@pytest.mark.parametrize("kind", sorted(FOREIGN))
def test_a_broken_image_of_a_run_is_left_out(tmp_path, mark, kind):
    run = run_folder(tmp_path, "a", images=("one", "two"))
    file = saved_images.place(run.path / "images", "Set5", "one", "sr")
    file.write_bytes(FOREIGN[kind])
    assert [picture.image for picture in saved_images.find([run])] == ["two"]
    file.write_bytes(hostile.picture("PPM", size=(80, 60)))  # this file has the right size
    assert [picture.image for picture in saved_images.find([run])] == ["two"]


def test_figures_are_not_written_through_a_link(tmp_path, mark):
    (tmp_path / "precious").mkdir()
    (tmp_path / "crops").symlink_to("precious")
    (picture,) = saved_images.find([run_folder(tmp_path, "a", images=("one",))])
    with pytest.raises(DataError, match="crops: is a link"):
        crops.write(tmp_path / "crops", picture)
    assert list((tmp_path / "precious").iterdir()) == []


def test_an_image_that_links_to_another_file_is_left_out(tmp_path, mark):
    run = run_folder(tmp_path, "a", images=("one",))
    file = saved_images.place(run.path / "images", "Set5", "one", "lr")
    file.unlink()
    file.symlink_to("/etc/passwd")
    assert saved_images.find([run]) == []


# Run folders


@pytest.mark.parametrize(
    "file", [".lock", "metrics.csv", "log.txt", "pruned.txt", "metrics.json", "config.yaml", "failed.txt"]
)
def test_a_run_does_not_write_through_a_link_in_its_folder(tmp_path, mark, file):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / file).symlink_to(tmp_path / "precious")
    with pytest.raises(ConfigError, match=f"{file}: is a link"), RunFolder(tmp_path / "run").attempt():
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_run_does_not_write_into_a_folder_that_its_own_folder_links_to(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "run").symlink_to("precious")
    with pytest.raises(ConfigError, match="run: is a link"), RunFolder(tmp_path / "run").attempt():
        pass
    assert list((tmp_path / "precious").iterdir()) == []


@pytest.mark.parametrize("name", ["run", "run/log.txt"])
def test_neither_a_training_run_nor_a_sweep_writes_through_a_link(tmp_path, name):
    """A sweep writes into the run folder, and opens ``log.txt``, before its job can look at the folder."""
    (tmp_path / "precious").mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "precious")
    config = compose(*SMOKE, "dataset=sample")
    assert isinstance(config, TrainConfig)
    with pytest.raises(ConfigError, match=f"{name}: is a link"):
        train.run(config, tmp_path / "run", [])
    with pytest.raises(ConfigError, match=f"{name}: is a link"):
        sweep.enqueue(config, tmp_path / "run", []).write()
    assert list((tmp_path / "precious").iterdir()) == []


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints.old"])
def test_a_start_from_scratch_follows_no_link(tmp_path, name):
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "last.ckpt").write_text("precious")
    folder.path.mkdir()
    (folder.path / name).symlink_to(tmp_path / "precious")
    folder.checkpoints.mkdir(exist_ok=True)
    (folder.checkpoints / "last.ckpt").touch()
    (tmp_path / "precious" / "begun").write_text("precious")
    (folder.path / ".begun").symlink_to(tmp_path / "precious" / "begun")
    with contextlib.suppress(OSError):
        folder.start_over("job")
    assert (tmp_path / "precious" / "begun").read_text() == "precious"
    DurableCheckpointIO(folder.earlier).save_checkpoint({}, folder.path / "new" / "last.ckpt")
    assert (tmp_path / "precious" / "last.ckpt").read_text() == "precious"


@pytest.mark.parametrize("name", ["../x", "/etc", "..", ".", "", "a/b", 7, None, ["a"]])
def test_the_index_of_a_sweep_cannot_name_another_folder(tmp_path, mark, name):
    job = {"folder": name, "label": None, "overrides": []}
    (tmp_path / "sweep.json").write_text(json.dumps({"version": 1, "jobs": [job]}))
    with pytest.raises(ConfigError, match="must name run folders next to the file"):
        read_index(tmp_path)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..", "a\0b", "", "x" * 300, "\ud800", "a/b"])
def test_an_image_with_any_name_stays_in_its_folder(tmp_path, name):
    placed = saved_images.place(tmp_path, name, name, "sr")
    assert placed.resolve().is_relative_to(tmp_path)
    assert len(placed.relative_to(tmp_path).parts) == 2
    assert all(len(part.encode()) < 200 for part in placed.relative_to(tmp_path).parts)


@pytest.mark.parametrize("way", ["../../secret", "/secret"])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_that_refers_to_files_elsewhere_is_exported_again(tmp_path, mark, exports, backend, way):
    network = PlusMean().eval()
    run_by(network, backend, cache_dir=tmp_path / "honest")
    (honest,) = (tmp_path / "honest" / "onnx").iterdir()
    graph = onnx.load(honest)
    (weight,) = (tensor for tensor in graph.graph.initializer if len(tensor.raw_data) > 1000)
    folder = tmp_path / "sly" / "onnx"
    folder.mkdir(parents=True, mode=0o700)
    secret = tmp_path / "secret"
    secret.write_bytes(weight.raw_data)  # gives correct outputs if it is read
    set_external_data(weight, str(secret) if way == "/secret" else way)
    weight.ClearField("raw_data")
    planted = graph.SerializeToString()
    (folder / honest.name).write_bytes(planted)
    exports.clear()
    runs = run_by(network, backend, cache_dir=tmp_path / "sly")
    assert exports == ["PlusMean"]
    assert (folder / honest.name).read_bytes() != planted
    with torch.no_grad():
        lr = torch.rand(1, 3, 20, 30)
        assert torch.allclose(runs(lr), network(lr), atol=1e-5)


def test_every_error_class_for_users_is_an_sr_lab_error():
    """Any other error would end in a traceback."""
    assert issubclass(ConfigError, SRLabError)
    assert issubclass(DataError, SRLabError)
    assert issubclass(CheckpointError, SRLabError)


def test_no_message_controls_the_terminal_even_in_a_traceback(tmp_path):
    name = "\x1b]0;evil\x07"
    made = hostile.safetensors({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, bytes(4))
    checkpoint = opened(tmp_path / "a.safetensors", made)
    with pytest.raises(CheckpointError) as caught:
        load_weights(torch.nn.Linear(1, 1), checkpoint)
    said = "".join(traceback.format_exception(caught.value))
    assert r"\x1b]0;evil\x07" in said
    assert "\x1b" not in said
