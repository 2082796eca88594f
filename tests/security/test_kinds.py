"""Every kind of attack in every slot of a configuration, from every kind of untrusted file.

Each attack is refused in a sentence that names its place, or composes to something harmless: nothing runs,
no server gets a request, and the secret in the environment is neither composed nor stored nor printed.
"""

import contextlib
import importlib
import inspect
import json
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel

from sr_lab import __main__ as command_line
from sr_lab import files
from sr_lab.checkpoints.opening import build_network
from sr_lab.config import hydra_guard, targets
from sr_lab.config.allowed import SLOTS
from sr_lab.config.compose import load, to_yaml
from sr_lab.config.identity import register_resolvers
from sr_lab.config.messages import explain
from sr_lab.config.overrides import LIMIT, WRITTEN, given_to, typed_again
from sr_lab.config.schema import SCHEMAS, is_path
from sr_lab.config.task_settings import refuse_unused
from sr_lab.config.untrusted import stored_network
from sr_lab.errors import ConfigError
from tests.loopback import Server, serving
from tests.security import hostile

SMOKE = ("trainer=cpu", "budget=smoke", "dataset=sample")
SECRET = "of-the-environment-0123456789"
RUN = "torch.utils.collect_env.run"  # a shell
TOUCH = {"_target_": RUN, "command": "touch {mark}"}
PICKLES = {
    "_target_": "torch.utils.data.datapipes.iter.RoutedDecoder",
    "datapipe": {"_target_": "torch.utils.data.datapipes.iter.FileOpener", "datapipe": ["{mark}"]},
}
STREAMED = {"_target_": "sr_lab.datasets.streaming.StreamingDataset", "shards_dir": "{url}"}

# For each slot, an honest class and the setting in which the attacks are placed.
HONEST = {
    "model": ("sr_lab.models.imdn.IMDN", "num_feat"),
    "upsampler": ("sr_lab.upsamplers.subpixel.SubpixelUpsampler", "mid_ch"),
    "strategy": ("sr_lab.strategies.ggas.apply", "kernel_size"),
    "schedule": ("torch.optim.lr_scheduler.StepLR", "gamma"),
    "dataset": ("sr_lab.datasets.folder.FolderDataset", "hr_dir"),
    "degradation": ("sr_lab.degradations.noise.NoiseDegradation", "sigma"),
    "loss": ("torch.nn.L1Loss", "reduction"),
    "optimizer": ("torch.optim.Adam", "eps"),
    "trainer": ("lightning.Trainer", "profiler"),
    "callback": ("lightning.pytorch.callbacks.ModelCheckpoint", "filename"),
    "logger": ("lightning.pytorch.loggers.WandbLogger", "project"),
}
KINDS = {
    "target": TOUCH,
    "partial target": {"_target_": "os.system", "_partial_": True, "_args_": ["touch {mark}"]},
    "nested target": {"_target_": "{honest}", "{setting}": TOUCH},
    "nested in a list": {
        "_target_": "{honest}",
        "{setting}": [[{"_target_": RUN, "command": "touch {mark}"}]],
    },
    "class that reads files": {"_target_": "{honest}", "{setting}": PICKLES},
    "dataset that connects": {"_target_": "{honest}", "{setting}": STREAMED},
    "interpolated target": {
        "_target_": "${oc.decode:torch.utils.collect_env.run}",
        "command": "touch {mark}",
    },
    "created node": {"_target_": "{honest}", "{setting}": "${oc.create:{_target_: os.system}}"},
    "escaped interpolation": {"_target_": "{honest}", "{setting}": "\\${oc.env:SECRET}"},
    "environment": {"_target_": "{honest}", "{setting}": "{url}/${oc.env:SECRET}"},
    "environment in a name": {"_target_": "{honest}", "{setting}": "${${oc.decode:oc.env}:SECRET}"},
    "environment of a shell": {"_target_": "{honest}", "{setting}": "$SECRET/${SECRET}"},
    "environment in a default": {
        "_target_": "{honest}",
        "{setting}": "${oc.env:SR_LAB_NONE,${oc.env:SECRET}}",
    },
    "path": {"_target_": "{honest}", "{setting}": "/{mark}", "dirpath": "/{mark}", "save_dir": "/{mark}"},
    "path upwards": {
        "_target_": "{honest}",
        "{setting}": "../../{mark}",
        "dirpath": "../..",
        "save_dir": "..",
    },
}


def filled(value: object, **words: str) -> object:
    """A description with each ``{name}`` replaced by the word of that name."""
    if isinstance(value, dict):
        return {filled(key, **words): filled(child, **words) for key, child in value.items()}
    if isinstance(value, list):
        return [filled(child, **words) for child in value]
    if isinstance(value, str):
        for name, word in words.items():
            value = value.replace(f"{{{name}}}", word)
    return value


def placed(slot: str, description: object) -> dict[str, object]:
    """A configuration with a description in its slot."""
    group, *rest = SLOTS[slot].place.split(".")
    for name in reversed(rest):
        description = {"mine" if name == "*" else name: description}
    named = {"name": "mine"} if group in ("upsampler", "strategy") else {}
    return {group: named | description if isinstance(description, dict) else description}


@pytest.fixture(name="server", scope="module")
def _server():
    with serving() as server:
        yield server


@pytest.fixture(name="mark")
def _mark(tmp_path, monkeypatch, server):
    """The file that a payload would create; the payload may not do anything else either."""
    monkeypatch.setenv("SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    with hostile.nothing_runs():
        yield tmp_path / "ran"
    assert not (tmp_path / "ran").exists()
    assert server.asked == []


def survives(*overrides: str, config_name: str = "config", folder: Path | None = None) -> str:
    """Compose and validate as the command line does; return what would be stored or printed."""
    try:
        with hydra.initialize_config_dir(str(folder or files.conf_dir()), version_base="1.3"):
            composed = hydra.compose(config_name, list(overrides), return_hydra_config=True)
            config = load(composed, given_to(composed.hydra), composed.hydra.runtime.choices)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        said = explain(error)
        assert said is not None
        assert "\n" not in said
        return said
    return to_yaml(config)


@pytest.fixture(autouse=True, scope="module")
def _guarded():
    register_resolvers()
    with hydra_guard.guarded():
        yield


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slot", HONEST)
def test_an_untrusted_experiment_does_no_harm(tmp_path, mark, server: Server, slot: str, kind: str):
    honest, setting = HONEST[slot]
    words = {"honest": honest, "setting": setting, "mark": str(mark), "url": server.url}
    content = placed(slot, filled(KINDS[kind], **words))
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\n" + json.dumps(content)
    (tmp_path / "experiment" / "sly.yaml").write_text(text)
    said = survives(*SMOKE, f"hydra.searchpath=[file://{tmp_path}]", "experiment=sly")
    assert SECRET not in said
    if kind in ("target", "partial target", "nested target"):  # refused before anything is built
        assert re.match(rf"(\w+\.)?{SLOTS[slot].place.partition('.')[0]}\.", said), said
    assert "upwards" not in kind or "logger" not in slot or "lead out" in said


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("path")])
@pytest.mark.parametrize("slot", [slot for slot in HONEST if SLOTS[slot].stored])
def test_an_untrusted_checkpoint_does_no_harm(mark, server: Server, slot: str, kind: str):
    honest, setting = HONEST[slot]
    words = {"honest": honest, "setting": setting, "mark": str(mark), "url": server.url}
    none = {"name": "none", "apply": None}
    record = {"model": {"_target_": HONEST["model"][0], "scale": 2}, "strategy": none, "scale": 2}
    record |= {"upsampler": {"name": "native", "factory": None}}
    record |= placed(slot, filled(KINDS[kind], **words))
    with pytest.raises(ConfigError) as caught:
        build_network(stored_network(record, "a.ckpt"))
    assert SECRET not in str(caught.value)


ESCAPED = [
    "$\\\\{oc.env:SECRET\\\\}",
    "'${oc.env:SECRET}'",
    "$\\\\{oc.env\\\\:SECRET}",
    "${a}{oc.env:SECRET}",
]


@pytest.mark.parametrize("text", ESCAPED)
def test_no_row_or_axis_in_an_untrusted_file_reads_the_environment(tmp_path, mark, text):
    """Hydra unescapes overrides, and the rows and axes of a sweep are overrides."""
    (tmp_path / "experiment").mkdir()
    sly = tmp_path / "experiment" / "sly.yaml"
    for content in (
        f'rows: {{a: ["+model.num_feat={text}"]}}\nrow: 0\na: "$"\n',
        f'hydra: {{mode: MULTIRUN, sweeper: {{params: {{experiment_name: "{text}"}}}}}}\na: "$"\n',
        f'experiment_name: "{text}"\n',
        f'rows: {{"{text}": []}}\nrow: 0\na: "$"\n',  # the label becomes a setting
        f'defaults: [{{override /model: "{text}"}}]\n',
    ):
        sly.write_text(f"# @package _global_\n{content}")
        said = survives(*SMOKE, f"hydra.searchpath=[file://{tmp_path}]", "experiment=sly")
        assert said.startswith(str(sly)) or "nterpolation" in said or "is not a setting" in said, said
        assert SECRET not in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(
            ("allow", "[evil]"),
            ("+allow", "[evil]"),
            ("paths.output_dir", "/tmp/x"),
            ("hydra.run.dir", "/tmp/x"),
            ("hydra/launcher", "submitit_local"),
            ("logger@logger", "wandb"),
            ("trainer", "gpu"),
            ("output", "/tmp/x"),
            ("runs", "/tmp/x"),
        ),
        *(
            ("callbacks.x.dirpath", "/tmp/x"),
            ("dataset", "{cache_dir: /tmp/x}"),
            ("++dataset", "x,{cache_dir: /tmp/x}"),
            ("+logger.wandb.entity", "them"),
            ("trainer.profiler.dirpath", "/x"),
        ),
    ],
)
def test_no_axis_in_an_untrusted_file_changes_what_is_trusted(tmp_path, mark, key, value):
    (tmp_path / "experiment").mkdir()
    text = f'# @package _global_\nhydra: {{sweeper: {{params: {{"{key}": "{value}"}}}}}}\n'
    (tmp_path / "experiment" / "sly.yaml").write_text(text)
    said = survives(*SMOKE, f"hydra.searchpath=[file://{tmp_path}]", "experiment=sly")
    assert f"hydra.sweeper.params.{key}: is not allowed in a file" in said


@pytest.mark.parametrize(
    ("key", "value"),
    [("output_dir", "/a,/b"), ("dataset", "{cache_dir: /a}"), ("shards_dir", "s3://a,s3://b")],
)
def test_an_axis_that_is_typed_may_change_it(tmp_path, mark, key, value):
    words = sly_experiment(tmp_path, "train", "hydra.sweeper.params", {"seed": "0,1"})
    assert "task: train\n" in survives(*words, f"+hydra.sweeper.params.{key}='{value}'")


def test_our_own_files_may_be_links_as_some_installers_make_them(tmp_path, mark, monkeypatch):
    ours, linked = files.conf_dir(), tmp_path / "conf"
    for file in ours.rglob("*.yaml"):
        link = linked / file.relative_to(ours)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    assert "is a link to a file outside the folder" in survives(*SMOKE, folder=linked)
    monkeypatch.setattr(hydra_guard, "conf_dir", lambda: linked)
    assert "task: train\n" in survives(*SMOKE, folder=linked)


@pytest.mark.parametrize("way", ["pkg://evil", "pkg://evil.conf"])
def test_only_trusted_packages_may_be_on_the_search_path(tmp_path, mark, monkeypatch, way):
    """A namespace package needs no ``__init__.py``, so looking for its files imports whatever is there."""
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "__init__.py").write_text(f"open({str(mark)!r}, 'w').close()")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "is not trusted" in survives(*SMOKE, f"hydra.searchpath=[{way}]")
    assert "is not trusted" in survives(*SMOKE, "hydra.searchpath=[pkg://hydra_evil]")
    with pytest.raises(ConfigError, match="'evil' is not trusted"):  # --config-path and --config-dir
        hydra_guard.check_packages(["pkg://hydra.conf", "pkg://evil"], ["allow=[mine]"])
    hydra_guard.check_packages(["pkg://hydra.conf", "pkg://evil.conf"], ["allow=[mine,evil]"])
    (tmp_path / "mine").mkdir()
    for hidden in (f"hydra: {{searchpath: [{way}]}}", f"hydra: ${{z}}\nz: {{searchpath: [{way}]}}"):
        (tmp_path / "mine" / "config.yaml").write_text(f"task: train\n{hidden}\n")
        said = survives(folder=tmp_path / "mine")
        assert "hydra.searchpath" in said
    assert not mark.exists()


@pytest.mark.parametrize(
    "option",
    [
        *("/../secret", "/experiment/../../secret", "/link", "/{conf}/secret"),
        # Hydra would read these files through the address of its own package.
        *("/{tmp_path}/secret", "//proc/self/cwd/secret"),
    ],
)
def test_no_file_reads_a_file_outside_of_its_folder(tmp_path, mark, option):
    """The values of that file, such as keys, could be stored and uploaded."""
    (tmp_path / "secret.yaml").write_text("key: '${oc.env:SECRET}'\n")
    (tmp_path / "sly" / "experiment").mkdir(parents=True)
    (tmp_path / "sly" / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    there = option.format(conf=os.path.relpath(tmp_path, files.conf_dir()), tmp_path=tmp_path)
    sly = json.dumps({"defaults": [f"{there}@hydra.sweeper.params"]})
    (tmp_path / "sly" / "experiment" / "sly.yaml").write_text(f"# @package _global_\n{sly}")
    said = survives(*SMOKE, f"hydra.searchpath=[file://{tmp_path}/sly]", "experiment=sly")
    assert "the folders that are searched" in said or "the folder that is searched" in said


HYDRAS = {
    "job.env_set": {"LD_PRELOAD": "x"},
    "job.env_copy": ["SECRET"],
    "job": {"env_copy": ["NO_SUCH_VARIABLE"]},
    "job.chdir": True,
    "job.name": "../../x",
    "callbacks": {"x": {"_target_": RUN, "command": "true"}},
    "run.dir": "/tmp/x",
    "sweep.dir": "/tmp/x",
    "sweep.subdir": "../x",
    "output_subdir": "x",
    "launcher": {"_target_": RUN, "command": "true"},
    "sweeper": {"_target_": RUN, "command": "true"},
    "job_logging": {"handlers": {"x": {"()": RUN, "command": "true"}}},
    "hydra_logging": {"handlers": {"x": {"class": "logging.FileHandler", "filename": "x"}}},
    "overrides": {"task": ["allow=[evil]"]},
    "overrides.hydra": ["allow=[evil]"],  # the jobs of a multirun are composed from this list
    "help": {"header": "${oc.env:SECRET}"},
}


@pytest.mark.parametrize("key", HYDRAS)
@pytest.mark.parametrize("way", ["experiment", "primary"])
def test_an_untrusted_file_changes_no_setting_of_hydra(tmp_path, mark, key, way):
    node = HYDRAS[key]
    for name in reversed(f"hydra.{key}".split(".")):
        node = {name: node}
    if way == "experiment":
        (tmp_path / "experiment").mkdir()
        text = "# @package _global_\n" + json.dumps(node)
        (tmp_path / "experiment" / "sly.yaml").write_text(text)
        said = survives(*SMOKE, f"hydra.searchpath=[file://{tmp_path}]", "experiment=sly")
    else:
        (tmp_path / "config.yaml").write_text(json.dumps({"task": "train", **node}))
        said = survives(folder=tmp_path)
    assert said.startswith(("hydra.", "In '", str(tmp_path)))
    assert SECRET not in said


def test_hydra_writes_no_file_of_its_own_into_an_untrusted_folder(tmp_path, mark):
    """These could be links: ``.hydra``, ``<name>.log``, and ``multirun.yaml``, which is always written."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "multirun.yaml").symlink_to("precious")
    (tmp_path / "config.yaml").write_text("task: train\n")

    def composed(*overrides: str) -> DictConfig:
        with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
            return hydra.compose("config", list(overrides), return_hydra_config=True).hydra

    asked = f"hydra.run.dir={tmp_path}", f"hydra.sweep.dir={tmp_path}"
    node = composed(*asked)
    assert node.output_subdir is None
    assert "FileHandler" not in str(node.job_logging)
    assert (tmp_path / "multirun.yaml").is_symlink()  # a single job does not write it
    composed(*asked, "hydra.mode=MULTIRUN")
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["config.yaml", "precious"]
    node = composed(*asked, "hydra.output_subdir=.hydra", "hydra/job_logging=default")
    assert node.output_subdir == ".hydra"
    assert "FileHandler" in str(node.job_logging)


def test_submitit_reads_no_pickle_that_was_there_before(mark):
    with hydra.initialize_config_dir(str(files.conf_dir()), version_base="1.3"):
        words = [*SMOKE, "hydra/launcher=submitit_local"]
        pickles = [
            hydra.compose("config", words, return_hydra_config=True).hydra.launcher.submitit_folder
            for _ in range(2)
        ]
        typed = hydra.compose(
            "config", [*words, "hydra.launcher.submitit_folder=x"], return_hydra_config=True
        )
    assert pickles[0] != pickles[1]
    assert typed.hydra.launcher.submitit_folder == "x"


def test_no_file_may_name_a_server(tmp_path, mark, server: Server):
    (tmp_path / "experiment").mkdir()
    words = (f"hydra.searchpath=[file://{tmp_path}]", "experiment=sly")
    for content in (
        f"defaults: [override /dataset: streaming]\ndataset: {{shards_dir: '{server.url}'}}\n",
        f"defaults: [override /dataset: streaming]\nsteps: 1\nexperiment_name: 'http:'\n"
        f"dataset: {{shards_dir: '${{experiment_name}}{server.url.removeprefix('http:')}'}}\n",
        f"defaults: [override /task: prepare]\nmirror: '{server.url}'\n",
        f"defaults: [override /benchmark: set5]\nbenchmark: {{lr_dir: [a, '{server.url}']}}\n",
    ):
        (tmp_path / "experiment" / "sly.yaml").write_text(f"# @package _global_\n{content}")
        said = survives(*words)
        assert "a file may not name a server" in said, said
    axis = f"hydra: {{sweeper: {{params: {{dataset.shards_dir: '{server.url}'}}}}}}\n"
    (tmp_path / "experiment" / "sly.yaml").write_text(f"# @package _global_\n{axis}")
    assert "hydra.sweeper.params.dataset.shards_dir: is not allowed in a file" in survives(*words)


# Settings that name places which are only read, so a file may give them.
READ = {
    *("paths.data_dir", "benchmark.lr_dir", "ckpt", "init_ckpt", "input", "folder", "sr_dir", "hr_dir"),
    *("ckpts", "own_runs", "hr"),
    *("dataset.hr_dir", "dataset.lr_dir", "dataset.val_dir", "dataset.val_lr_dir", "dataset.shards_dir"),
}
NEEDED = {
    "analyze": {"kind": "psd"},
    "upscale": {"input": "x"},
    "export": {"output": "y"},
    "shard": {"output": "y"},
    "new": {"name": "mynet", "at": "y"},
    "measure": {"sr_dir": "x", "hr_dir": "y"},
    **{task: {"runs": "y"} for task in ("report", "status", "dashboard", "log")},
}
DECIDES = {"overwrite", "write_results", "store", LIMIT}  # no places


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings_of(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def arguments() -> Iterator[str]:
    """The arguments that take a string, of all our own classes that a configuration may name."""
    for slot in (slot for slot in SLOTS.values() if slot.room and slot.place):
        for module in pkgutil.iter_modules(importlib.import_module(slot.room).__path__, f"{slot.room}."):
            for found in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(found) and issubclass(
                    found, targets.locate(slot.base or "torch.nn.Module")
                ):
                    parameters = inspect.signature(found).parameters.values()
                    yield from (f"{slot.place}.{p.name}" for p in parameters if "str" in str(p.annotation))


TASKS = {
    key: [task for task, schema in SCHEMAS.items() if key in settings_of(schema) or "dataset." in key]
    for key in WRITTEN
}


def test_each_setting_that_names_a_place_is_known_to_be_written_or_only_read():
    """A new setting belongs in `WRITTEN`, or in `READ` here."""
    settings = {key for schema in SCHEMAS.values() for key in settings_of(schema)} | set(arguments())
    assert {key for key in settings if is_path(key)} == (set(WRITTEN) - DECIDES) | READ
    assert all(TASKS.values())


def smoke(task: str) -> list[str]:
    """The arguments for a short run that a task accepts."""
    words = []
    for word in SMOKE:
        with contextlib.suppress(ConfigError):
            refuse_unused(task, [word])
            words.append(word)
    return words


def sly_experiment(folder: Path, task: str, key: str, value: object) -> tuple[str, ...]:
    """The arguments that choose an untrusted experiment, which sets a setting of a task."""
    node = value
    for name in reversed(key.split(".")):
        node = {name: node}
    assert isinstance(node, dict)
    (folder / "experiment").mkdir(exist_ok=True)
    content = {"defaults": [{"override /task": task}], **node}
    (folder / "experiment" / "sly.yaml").write_text("# @package _global_\n" + json.dumps(content))
    return (*smoke(task), f"hydra.searchpath=[file://{folder}]", "experiment=sly")


@pytest.mark.parametrize(
    ("key", "task"),
    [(key, task) for key in WRITTEN for task in TASKS[key][:2]] + [("paths.data_dir", "prepare")],
)
def test_no_file_may_say_where_files_are_written(tmp_path, mark, key, task):
    value: object = 10**9 if key == LIMIT else True if key in DECIDES else f"{tmp_path}/there"
    needed = [f"{name}={text}" for name, text in NEEDED.get(task, {}).items() if name != key]
    words = (*sly_experiment(tmp_path, task, key, value), *needed)
    said = survives(*words)
    assert not (tmp_path / "there").exists()
    if said.startswith("experiment: is used only by"):  # an experiment may not choose this task
        return
    assert said == (
        f"{key}: a file may not {'raise this limit' if key == LIMIT else 'set where files are written'}, "
        f"got {value!r}; set it on the command line"
    )
    assert f"task: {task}\n" in survives(*words, f"{key}={value}")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize("key", WRITTEN)
def test_no_axis_in_a_file_may_say_where_files_are_written(tmp_path, mark, key):
    words = sly_experiment(tmp_path, "train", "hydra.sweeper.params", {key: f"{tmp_path}/there"})
    assert f"hydra.sweeper.params.{key}: is not allowed in a file" in survives(*words)


def test_a_file_may_repeat_our_own_places_and_say_what_is_read(tmp_path, mark, monkeypatch):
    monkeypatch.setenv("SR_LAB_OUTPUT", "mine")
    stored = survives(
        *sly_experiment(tmp_path, "train", "paths", {"data_dir": "/data", "output_dir": "mine"})
    )
    assert "data_dir: /data\n" in stored
    assert "a file may not set" in survives(*sly_experiment(tmp_path, "train", "paths.output_dir", "outputs"))


@pytest.mark.parametrize(
    ("key", "value"), [("paths.output_dir", "/there"), ("experiment_name", "../x"), ("task", "../x")]
)
def test_hydra_writes_nothing_to_a_folder_that_a_file_names_before_a_sweep(tmp_path, mark, key, value):
    """Hydra creates the folder of a sweep, and writes ``multirun.yaml`` there, before it calls sr_lab."""
    words = sly_experiment(tmp_path, "train", key, value)
    whole = hydra.initialize_config_dir(str(files.conf_dir()), version_base="1.3")
    with whole, pytest.raises(HydraException) as caught:
        hydra.compose("config", [*words, "hydra.mode=MULTIRUN"], return_hydra_config=True)
    assert str(explain(caught.value)).startswith(f"{key}: ")


def test_a_stored_configuration_leaves_open_where_the_next_run_writes(tmp_path, mark, monkeypatch):
    typed = (
        "paths.output_dir=/there",
        "paths.cache_dir=/there",
        "paths.data_dir=/data",
        "dataset.cache_dir=/d",
    )
    stored = survives(*SMOKE, *typed)
    (tmp_path / "config.yaml").write_text(stored)
    assert "/there" not in stored
    monkeypatch.setenv("SR_LAB_CACHE", "mine")
    again = OmegaConf.create(survives(folder=tmp_path))
    resolved = OmegaConf.to_container(again, resolve=True)
    assert resolved["paths"] == {"data_dir": "/data", "output_dir": "outputs", "cache_dir": "mine"}
    assert resolved["dataset"]["cache_dir"] == "mine"
    job = typed_again([*SMOKE, *typed, "allow=[mine]"])
    assert job == [f"++{override}" for override in typed]
    restored = OmegaConf.create(survives(*job, folder=tmp_path))
    assert "/there" not in OmegaConf.to_yaml(restored)  # the job's own file leaves cache_dir open too


@pytest.mark.parametrize("name", ["../x", "/../../x", "..", ".x", "a/../../x", "a\\b", "a\nb", ""])
def test_no_name_is_a_path(tmp_path, mark, name):
    """``task=export`` names files after a checkpoint's tail and strategy; a run names images after sets."""
    for slot in ("upsampler", "strategy"):
        record = {"model": {"_target_": HONEST["model"][0], "scale": 2}, "scale": 2}
        record |= {
            "upsampler": {"name": "native", "factory": None},
            "strategy": {"name": "none", "apply": None},
        }
        stored_network(record, "a.ckpt")
        record[slot] = record[slot] | {"name": name}
        with pytest.raises(ConfigError, match="has no complete description of its network"):
            stored_network(record, "a.ckpt")
    for key in ("validation.sets", "benchmark.sets"):
        assert survives(*sly_experiment(tmp_path, "train", key, [name])).startswith(f"{key}.0: string should")


def test_an_evaluation_may_name_no_class_either(tmp_path, mark):
    words = sly_experiment(tmp_path, "evaluate", "model", {"_target_": RUN})
    assert survives(*words).startswith("model._target_: ")


def test_a_typed_address_is_passed_on_to_the_jobs_of_a_sweep():
    typed = ["dataset=streaming", "dataset.shards_dir=s3://mine/df2k"]
    assert "shards_dir: s3://mine/df2k\n" in survives(*SMOKE[:2], *typed)
    others = ("hydra.searchpath=[file:///x]", "~dataset.cache_dir")
    assert typed_again([*typed, *others]) == ["++dataset.shards_dir=s3://mine/df2k"]


def test_what_the_user_types_is_resolved(mark):
    """The rules above are for files; on the command line, everything that OmegaConf supports is allowed."""
    os.environ["SR_LAB_MINE"] = "mine"
    said = survives(*SMOKE, "+model.x=1", "optimizer.lr=${learning_rate}")
    assert "model.x" in said
    stored = survives(*SMOKE, "optimizer.lr=${learning_rate}", "experiment_name=${oc.env:SR_LAB_MINE}")
    assert "lr: 0.0002" in stored
    assert "experiment_name: mine" in stored
    assert "total_iters: 300" in survives(
        *SMOKE, "steps=300", "+schedule.scheduler.total_iters=${steps}", "schedule=constant", "budget=paper"
    )


@pytest.mark.parametrize("flag", ["--experimental-rerun=run.pickle", "--exp", "--e=run.pickle"])
def test_hydra_does_not_rerun_a_pickle(mark, monkeypatch, capsys, flag):
    Path("run.pickle").write_bytes(hostile.call("posix system", f"touch {mark}"))
    monkeypatch.setattr("sys.argv", ["sr_lab", flag, *(["run.pickle"] if "=" not in flag else [])])
    assert command_line.main() == 2
    assert "would read a pickle" in capsys.readouterr().err
