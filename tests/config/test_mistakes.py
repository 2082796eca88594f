"""Plausible mistakes on the command line and the facts in each answer; arguments understood as typed."""

import shlex
from pathlib import Path

import pytest

from sr_lab import __main__ as program
from sr_lab import tasks
from sr_lab.config.identity import run_identity
from sr_lab.config.schema import Config
from sr_lab.config.shorthand import as_typed, for_help, understood
from sr_lab.errors import ConfigError
from sr_lab.runs import sweep
from tests.composing import compose

# What is typed, as in a shell, and the facts that the answer contains.
MISTAKES = {
    # a setting that the class of the chosen option does not have
    "model=imfm model.num_feats=32": ("model.num_feats", "IMFM", "did you mean 'num_feat'?"),
    "model=imfm model.num_feat=many": ("model.num_feat", "integer", "'many'"),
    "optimizer.weight_deacy=1e-4": ("Adam has no such setting", "did you mean 'weight_decay'?"),
    "loss=l1 loss.eps=1e-6": ("loss.eps", "L1Loss has no such setting"),
    "schedule=cosine schedule.T_max=100": ("schedule.T_max", "schedule.scheduler.T_max"),
    "upsampler=deconv upsampler.kernel_size=3": ("upsampler.kernel_size", "upsampler.factory.kernel_size"),
    "upsampler.factory.kernel_size=3": ("upsampler.factory", "choose", "upsampler="),
    "dataset=sample dataset.hr_dir=photos": ("dataset.hr_dir", "SamplePhotographs has no", "dataset=folder"),
    "trainer.max_epochs=30": ("trainer.max_epochs", "write steps=..."),
    "trainer.max_steps=1000": ("trainer.max_steps", "write steps=..."),
    "trainer.steps=1000": ("trainer.steps", "write steps=..."),
    "--opt options/train.yml": ("--opt", "experiment=<name>", "--config-dir"),
    "--lr 1e-4": ("--lr", "without dashes", "learning_rate="),
    "freeze=[head, body]": ("freeze", "without spaces", "freeze=[a,b]"),
    "resume=outputs/train/last.ckpt": ("resume", "'auto' or 'never'", "the command that began"),
    "task=export ckpt=x output=y format=tflite": ("format: input should be", "'onnx'", "'tflite'"),
    "optimizer.learning_rate=1e-3": ("optimizer.learning_rate", "write learning_rate=..."),
    "logger.project=mine": ("logger.project", "logger.wandb.project"),
    "callbacks.early_stopping.patience=3": ("callbacks.early_stopping", "choose", "callbacks="),
    "validation.intervall=100": ("validation.intervall", "did you mean 'interval'?"),
    "optimizer.betas=[0.9": ("optimizer.betas", "[0.9"),
    "model.drf_kernels=3": ("model.drf_kernels", "got 3"),
    # a group takes the name of one of its options
    "schedule='{name: cosine}'": ("schedule", "takes the name of one of its options", "cosine_restart"),
    "schedule='{interval: epoch, T_max: 5}'": ("schedule", "takes the name of one", "schedule.<setting>=..."),
    "model=[imdn,osffnet]": ("model: takes", "-m model=imdn,osffnet"),
    "model=imdn,osffnet": ("model", "-m model=imdn,osffnet"),
    "model=OSFNet": ("model", "'OSFNet'", "did you mean 'osffnet'?"),
    "model=IMDN": ("model", "did you mean 'imdn'?"),
    "optimizer=AdamW": ("optimizer", "did you mean 'adamw'?"),
    "benchmark=Set5": ("benchmark", "did you mean 'set5'?"),
    "schedule=cosine_annealing": ("schedule", "'cosine_annealing'", "did you mean 'cosine"),
    "loss=mse": ("loss", "'mse'", "charbonnier, fft, l1, l2"),
    "trainer=gpus": ("trainer", "did you mean 'gpu'?"),
    "task=test": ("task", "'test'", "evaluate"),
    # experiments, by folder
    "experiment=osffnet/table2": ("experiment", "did you mean 'osffnet/table2_osff'?", "osffnet/table3_imdn"),
    "experiment=table3_upsamplers": ("experiment", "did you mean 'imfm/table3_upsamplers'?"),
    "experiment=osffnet": ("experiment", "osffnet/train", "osffnet/table2_osff"),
    "experiment=imfn/train": ("experiment", "did you mean 'imfm/train'?"),
    "logger=null": ("logger", "got null", "none, tensorboard"),
    "experiment=true": ("experiment", "takes the name of one of its options"),
    # a setting inside a dictionary
    "validation='{intervall: 3}'": ("validation.intervall", "did you mean 'interval'?"),
    "paths='{dat_dir: x}'": ("paths.dat_dir", "did you mean 'data_dir'?"),
    "sweep='{jobs: 2, job: 3}'": ("sweep.job:", "did you mean 'jobs'?"),
    "callbacks.timer='{_target_: lightning.pytorch.callbacks.Timer, durations: 3}'": (
        *("callbacks.timer.durations", "did you mean 'duration'?"),
    ),
    "rows='{A: [validation.sets=[Set5]]}'": ("rows", "contains a '=' in quotes"),
    "rows.A=[lr=3] row=0": ("rows.A", "lr", "learning_rate"),
    "hparams_search.space.loss=[l1,l2]": ("hparams_search.trials", "hparams_search=<name>"),
    "hparams_search=optuna hparams_search.space='{seed: [1,2]}'": ("hparams_search.space.seed", "remove it"),
    # what other frameworks call a setting
    "lr=1e-4": ("lr:", "learning_rate"),
    "epochs=100": ("epochs:", "steps"),
    "bs=8": ("bs:", "batch_size"),
    "batch=8": ("batch:", "batch_size"),
    "lr_scheduler=cosine": ("lr_scheduler:", "schedule"),
    "gpus=2": ("gpus:", "trainer.devices"),
    "workers=4": ("workers:", "num_workers"),
    "patch_size=64": ("patch_size:", "dataset.lr_patch_size"),
    "upscale=2": ("upscale:", "scale"),
    "manual_seed=1": ("manual_seed:", "seed"),
    "network_g.num_feat=32": ("network_g", "model"),
    "data=div2k": ("data:", "dataset"),
    "data_dir=data": ("data_dir:", "paths.data_dir"),
    "num_feat=32": ("num_feat:", "model.num_feat"),
    "precision=16-mixed": ("precision:", "trainer.precision"),
    "protocol=classic_y": ("protocol:", "benchmark.protocol"),
    "+epochs=100": ("epochs:", "steps"),
    "pretrained=x.pth": ("pretrained:", "init_ckpt"),
    "task=evaluate model=bicubic weights=x.pth": ("weights:", "ckpt"),
    # options of another task
    "ckpt=best.ckpt": ("ckpt:", "task=evaluate", "task=upscale", "init_ckpt"),
    "+ckpt=best.ckpt": ("ckpt:", "task=evaluate", "task=upscale", "init_ckpt"),
    "task=evaluate init_ckpt=best.ckpt": ("init_ckpt:", "task=train", "ckpt"),
    "input=photo.png": ("input:", "task=upscale", "task=train"),
    "runs=outputs": ("runs:", "task=report", "task=train"),
    "task=report runs=outputs ckpt=best.ckpt": ("ckpt:", "task=evaluate", "runs"),
    "explain=true": ("explain:", "task=evaluate"),
    "hr_dir=photos": ("hr_dir:", "task=measure", "dataset.hr_dir"),
    "task=upscale model=bicubic runs=x": ("runs:", "task=report", "ckpt"),
    # missing data
    "dataset=div2k paths.data_dir=nope": (
        *("dataset.hr_dir", "nope/DIV2K/DIV2K_train_HR"),
        "task=prepare dataset=div2k paths.data_dir=nope",
    ),
    "dataset=flickr2k paths.data_dir=nope": ("dataset.hr_dir", "task=prepare dataset=flickr2k"),
    "dataset=folder dataset.hr_dir=/nope": ("dataset.hr_dir: there is no folder /nope",),
    "dataset=folder dataset.hr_dir=. dataset.val_dir=/nope": ("dataset.val_dir: there is no folder /nope",),
    "dataset=folder dataset.hr_dir=. dataset.lr_dir=/nope": ("dataset.lr_dir: there is no folder /nope",),
    "task=evaluate model=bicubic benchmark=set5 paths.data_dir=nope": (
        *("Set5", "nope/benchmarks/Set5/HR"),
        "task=prepare benchmark=set5 paths.data_dir=nope",
    ),
    "validation.sets=[set5] paths.data_dir=nope": ("set5", "did you mean 'Set5'?"),
    "validation.sets=[Set55] paths.data_dir=nope": ("Set55", "did you mean 'Set5'?"),
    "validation.sets=Set5": ("validation.sets", "list", "validation.sets=[Set5]"),
    "init_ckpt=nope.ckpt": ("init_ckpt: there is no file 'nope.ckpt'",),
    # the form of an argument
    "model: imdn": ("model:", "key=value"),
    "--model imdn": ("--model", "model=..."),
    "--scale=2": ("--scale", "scale=2"),
    "task=upscale photo.png": ("photo.png", "key=value"),
    "init_ckpt=a,b.ckpt": ("init_ckpt", "\"init_ckpt='a,b.ckpt'\"", "-m"),
    "run_name='my run'": ("run_name", "'my run'"),
    "run_name='it'\"'\"'s'": ("run_name", "it's"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program_in_this_process: None) -> Path:
    """A folder with two image files, in which the program runs in this process."""
    monkeypatch.chdir(tmp_path)
    for variable in ("SR_LAB_DATA", "SR_LAB_OUTPUT", "LOCAL_RANK"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("SR_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").write_bytes(b"")
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, list[str]]]:
    """What the program would run: configurations, each with its command line."""
    found: list[tuple[Config, list[str]]] = []
    monkeypatch.setattr(tasks, "run", lambda config, folder, given: found.append((config, list(given))))
    monkeypatch.setattr(tasks, "finish", lambda *_: None)

    def queue(jobs: list[sweep.Job]) -> int:
        found.extend((job.config, list(job.overrides)) for job in jobs)
        return 0

    monkeypatch.setattr(sweep, "run", queue)
    return found


def smoke(typed: str) -> tuple[str, ...]:
    """Settings for a short training run, which other tasks refuse."""
    return () if "task=" in typed else ("trainer=cpu", "budget=smoke")


def main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["sr_lab", *words])
    return program.main()


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_gets_a_one_sentence_error_that_states_the_facts(typed, place, started, monkeypatch, capfd):
    code = main(monkeypatch, *smoke(typed), *shlex.split(typed))
    said = capfd.readouterr().err.strip()
    assert (code, started) == (2, []), said
    assert said.startswith("error: ")
    assert "\n" not in said
    assert [fact for fact in MISTAKES[typed] if fact not in said] == [], said
    assert "hydra.cc" not in said


# Arguments that are understood as typed; the setting is the one that the argument after the bar gives.
TAKEN = {
    "model=imfm|model.num_feat=32": ("model", {"num_feat": 32}),
    "model=imdn|model.num_feat=32": ("model", {"num_feat": 32}),
    "model=imfm|model.num_path=3": ("model", {"num_path": 3}),  # a number, although paths are quoted
    "|optimizer.weight_decay=1e-4": ("optimizer", {"weight_decay": 1e-4}),
    "schedule=cosine|schedule.scheduler.last_epoch=3": ("schedule", {"scheduler": {"last_epoch": 3}}),
    "upsampler=mwaum|upsampler.factory.num_up_feat=16": ("upsampler", {"factory": {"num_up_feat": 16}}),
    "|trainer.gradient_clip_algorithm=value": ("trainer", {"gradient_clip_algorithm": "value"}),
    "|dataset.augment=false": ("dataset", {"augment": False}),
    "|init_ckpt=epoch=3-step=6.ckpt": ("init_ckpt", "epoch=3-step=6.ckpt"),
    "|init_ckpt=2024": ("init_ckpt", "2024"),
    "|init_ckpt=~/runs/x.ckpt": ("init_ckpt", "~/runs/x.ckpt"),
    "|init_ckpt=it's.ckpt": ("init_ckpt", "it's.ckpt"),
    "|init_ckpt='a, b.ckpt'": ("init_ckpt", "a, b.ckpt"),
    "|init_ckpt=null": ("init_ckpt", None),
    "dataset=folder|dataset.hr_dir=写真": ("dataset", {"hr_dir": "写真"}),
    "dataset=folder|dataset.hr_dir=[é,my photos (1)]": ("dataset", {"hr_dir": ["é", "my photos (1)"]}),
    "|paths.data_dir=/mnt/Bilder & Daten #1": ("paths", {"data_dir": "/mnt/Bilder & Daten #1"}),
    r"|paths.data_dir=C:\data\x": ("paths", {"data_dir": r"C:\data\x"}),
    "task=upscale output=x|input=é.png": ("input", "é.png"),
    "task=upscale output=x|input=José/IMG (1).png": ("input", "José/IMG (1).png"),
    "task=upscale output=x|input=-x--y.png": ("input", "-x--y.png"),
    "task=upscale output=x|input=[draft]/a.png": ("input", "[draft]/a.png"),
    "task=upscale output=x|input=[a.png,é.png]": ("input", ["a.png", "é.png"]),
    "task=upscale output=x|input=1e5": ("input", "1e5"),
    "task=report|runs=true": ("runs", "true"),
    # a dictionary with the user's own keys
    "row=1|rows={A: [model=rfdn], B: [model=imdn, seed=7]}": ("seed", 7),
    "row=0|rows.A=[seed=8, '+model.num_feat=16']": ("model", {"num_feat": 16}),
    "hparams_search=optuna|hparams_search.space={model.num_feat: {low: 16, high: 32}}": (
        *(
            "hparams_search",
            {"space": {"model.num_feat": {"low": 16, "high": 32}, "loss": ["l1", "charbonnier"]}},
        ),
    ),
    "hparams_search=optuna|hparams_search.space.model.num_feat=[16,32]": (
        *("hparams_search", {"space": {"model.num_feat": [16, 32]}}),
    ),
    "hparams_search=optuna|hparams_search.space={learning_rate: {low: 1e-4, high: 1e-3}, loss: [l1,l2]}": (
        *("hparams_search", {"space": {"learning_rate": {"high": 1e-3, "log": True}, "loss": ["l1", "l2"]}}),
    ),
    "hparams_search=upsamplers|hparams_search.space.batch_size=[2,4]": (
        *("hparams_search", {"space": {"batch_size": [2, 4]}}),
    ),
    "|callbacks.stop={_target_: lightning.pytorch.callbacks.Timer, interval: step}": (
        *("callbacks", {"stop": {"interval": "step"}}),
    ),
    "|logger.wandb.notes=first try (v2)!": ("logger", {"wandb": {"notes": "first try (v2)!"}}),
}


def holds(value: object, part: object) -> bool:
    """Whether a setting is as expected; in a group, only the expected settings are compared."""
    if isinstance(part, dict):
        return isinstance(value, dict) and all(holds(value.get(key), child) for key, child in part.items())
    return value == part


@pytest.mark.parametrize("typed", TAKEN)
def test_a_path_needs_no_quotes_and_an_argument_no_plus(typed):
    before, _, word = typed.partition("|")
    key, part = TAKEN[typed]
    config = compose(*understood([*smoke(typed), *before.split(), word]))
    assert holds(config.model_dump()[key], part)


@pytest.mark.parametrize("word", ["model.num_feat=32", "model.scale=3", "trainer.devices=2"])
def test_what_was_typed_is_what_is_shown(word):
    assert [as_typed(read) for read in understood([word])] == [word]


@pytest.mark.parametrize(
    "word", ["++paths={}", "+model.num_feat=32", "seed=3", "hydra.run.dir='/a b'", "~rows"]
)
def test_other_words_are_left_as_they_are(word):
    assert understood([word]) == [word] == [as_typed(word)]


def test_options_of_hydra_and_their_values_are_left_as_they_are():
    words = ["--config-path", "/é (1)", "--cfg", "job", "-m", "--info", "defaults", "--multi"]
    assert understood(words) == words


def test_help_on_several_options_explains_each_once():
    end = ["-m", "--config-dir", "conf", "--help"]
    words = ["model=imdn,osffnet", "loss=l1", "model.num_feat=8,16", *end]
    both = for_help(words)
    assert both == [
        ["model=imdn", "loss=l1", "model.num_feat=8", *end],
        ["model=osffnet", "model.num_feat=8", *end],
    ]
    assert for_help(words[:-1]) == [words[:-1]]


def test_an_argument_gives_the_same_run_and_the_same_row_with_or_without_a_plus():
    plus, bare = (compose("trainer=cpu", *understood([f"{plus}model.num_feat=32"])) for plus in ("+", ""))
    assert (plus, run_identity(plus).values) == (bare, run_identity(bare).values)
    row = compose(
        "trainer=cpu", "+rows={a: ['+model.num_feat=8']}", "row=0", *understood(["model.num_feat=32"])
    )
    assert row.model["num_feat"] == 32


@pytest.mark.usefixtures("place")
def test_a_sweep_goes_over_an_argument_and_over_paths(started, monkeypatch):
    assert (
        main(monkeypatch, "-m", "trainer=cpu", "budget=smoke", "model=imfm,imdn", "model.num_feat=16,32") == 0
    )
    assert [config.model["num_feat"] for config, _ in started] == [16, 32, 16, 32]
    assert [given[-1] for _, given in started] == ["model.num_feat=16", "model.num_feat=32"] * 2


def test_a_sweep_over_paths_needs_no_quotes(place, started, monkeypatch):
    names = ["é (1).ckpt", "b=2.ckpt"]
    for name in names:
        (place / name).write_text(name)
    assert main(monkeypatch, "-m", "trainer=cpu", "budget=smoke", f"init_ckpt={','.join(names)}") == 0
    assert [config.init_ckpt for config, _ in started] == names


def test_a_file_still_needs_the_plus(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.num_feat"):
        compose("trainer=cpu", "model=imfm", "+rows={a: ['model.num_feat=8']}", "row=0")
