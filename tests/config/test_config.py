import re

import hydra
import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sr_lab.config import compose as configuration
from sr_lab.config.compose import load, to_yaml
from sr_lab.config.messages import explain
from sr_lab.config.networks import model_node, model_options
from sr_lab.config.untrusted import stored_network
from sr_lab.errors import ConfigError
from sr_lab.files import conf_dir
from tests.composing import compose

SMOKE = ("trainer=cpu", "budget=smoke")


def sentence(*overrides: str) -> str:
    """The message that the command line prints about a mistake."""
    with pytest.raises((ConfigError, HydraException, OmegaConfBaseException, ValueError)) as caught:
        compose(*(() if any(word.startswith("task=") for word in overrides) else SMOKE), *overrides)
    said = explain(caught.value)
    assert said is not None
    assert "\n" not in said
    return said


# Options by group; test_experiments.py composes experiments, and the test below reads networks.
OPTIONS = {
    group.name: sorted(path.stem for path in group.glob("*.yaml"))
    for group in conf_dir().iterdir()
    if group.is_dir() and group.name not in ("model", "experiment")
}
TASKS = [f"task={task}" for task in OPTIONS.pop("task")]


def together(position: int) -> list[str]:
    """The options at this position in all groups that are long enough; composing each alone is slow."""
    return [f"{group}={names[position]}" for group, names in OPTIONS.items() if position < len(names)]


@pytest.mark.parametrize(
    "options",
    [*([task] for task in TASKS), *(together(i) for i in range(max(map(len, OPTIONS.values()))))],
    ids=" ".join,
)
def test_every_option_of_every_group_is_valid(options: list[str]):
    needs = {
        "report": ("runs=outputs",),
        "measure": ("sr_dir=theirs", "hr_dir=hr"),
        "status": ("runs=outputs",),
        "dashboard": ("runs=outputs",),
        "log": ("runs=outputs",),
        "upscale": ("input=photo.png", "output=large"),
        "folder": ("dataset.hr_dir=somewhere",),
        "streaming": ("dataset.shards_dir=somewhere",),
        "shard": ("output=shards",),
        "new": ("name=mynet", "at=mypkg"),
        "export": ("output=exported",),
        "analyze": ("kind=psd",),
    }
    smoke = SMOKE if not set(options) & {*TASKS} - {"task=train"} else ()
    compose(*smoke, *options, *(word for option in options for word in needs.get(option.split("=")[1], ())))


@pytest.mark.parametrize("option", model_options())
def test_every_network_option_has_only_settings_of_its_class(option: str):
    node, native, none = (
        model_node(option, 4),
        {"name": "native", "factory": None},
        {"name": "none", "apply": None},
    )
    record = {"model": node, "upsampler": native, "strategy": none, "scale": 4}
    assert stored_network(record, option).model == node


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model=osfnet", "model: there is no option 'osfnet'; allowed: .*; did you mean 'osffnet'?"),
        ("modle=imdn", r"modle: there is no such group or setting; .*; did you mean 'model'?"),
        ("model.num_feats=3", "model.num_feats: there is no such setting in 'model'"),
        ("+model.num_feats=3", "OSFFNet has no such setting; .*; did you mean 'num_feat'?"),
        ("+model.typo=3", "model.typo: OSFFNet has no such setting; allowed: .*num_block"),
        ("+model.num_feat=many", "model.num_feat: input should be a valid integer, got 'many'"),
        ("+model.num_feat='32'", "model.num_feat: input should be a valid integer, got '32'"),
        ("scale=big", "scale: input should be a valid integer, got 'big'"),
        ("scale=0", "scale: input should be greater than or equal to 2, got 0"),
        ("benchmark.sets=[Set5,Set14,Set5]", "benchmark.sets: Set5 must be listed only once"),
        ("validation.sets=[Set5,Set5]", "validation.sets: Set5 must be listed only once"),
        ("+validation.intervall=3", "validation.intervall: there is no such setting; .*'interval'?"),
        ("+typo=3", "typo: there is no such setting; allowed: .*steps"),
        ("trainer.precision=fp8", "trainer.precision: input should be 'auto', '32-true'.*got 'fp8'"),
        ("+trainer.max_epochs=3", "trainer.max_epochs: Trainer has no such setting"),
        ("+trainer.enable_checkpointing=false", "trainer.enable_checkpointing: Trainer has no such setting"),
        ("model.scale=3", "model.scale: must equal scale, which is 4, got 3; set scale=3 instead"),
        ("degradation.scale=2", "degradation.scale: must equal scale, which is 4, got 2; set scale=2"),
        ("task=complexity model.scale=3", "model.scale: must equal scale, which is 4, got 3"),
        ("+trainer.acumulate=3", "trainer.acumulate: Trainer has no such setting; .*accumulate_grad_batches"),
        ("+logger.wandb.projekt=x", "logger.wandb.projekt: WandbLogger has no such setting; .*'project'?"),
        ("optimizer.weight_decay=x", "optimizer.weight_decay"),
        ("+optimizer.weight_decay=[1]", "optimizer.weight_decay: .*got \\[1\\]"),
        ("task=report", "runs: has no value and needs one; set runs=..."),
        ("dataset=folder", "dataset.hr_dir: has no value and needs one"),
        ("experiment_name=../../x", "experiment_name: string should match pattern"),
        ("model=imdn,osffnet", "model"),
        ("model=[imdn,osffnet]", r"model: takes one option, got \[imdn,osffnet\]; .* -m model=imdn,osffnet"),
        ("run_name=../../x", "run_name: string should match pattern"),
        (
            "task=upscale input=a.png max_pixels=many",
            r"max_pixels: input should be a valid integer or 'none', got 'many'",
        ),
        (
            "task=upscale input=a.png tile=0",
            r"tile: input should be greater than 0 or 'auto' or 'none', got 0",
        ),
        ("task=demo port=x", r"port: input should be a valid integer, got 'x'"),
        ("budget=3", "a group takes the name of one of its options"),
        ("callbacks=early_stoping", "did you mean 'early_stopping'?"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(override: str, said: str):
    assert re.search(said, sentence(*override.split(" ")))


def test_a_typo_inside_a_yaml_file_is_reported(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("_target_: sr_lab.models.imdn.IMDN\nscale: ${scale}\nnum_blocks: 3\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "mine.yaml").rename(tmp_path / "model" / "mine.yaml")
    assert "did you mean 'num_block'?" in sentence(f"hydra.searchpath=[file://{tmp_path}]", "model=mine")


def test_a_budget_limits_the_recipe_and_shortens_its_epochs_in_proportion():
    config = compose(*SMOKE, "schedule=step")
    assert (config.steps, config.batch_size, config.dataset["lr_patch_size"]) == (6, 2, 16)
    assert (config.recipe["steps"], config.steps_per_epoch) == (1_000_000, 1000)
    assert config.steps_of_an_epoch == pytest.approx(1000 * 6 / 1_000_000)


TYPED = {
    "steps": "steps",
    "batch_size": "batch_size",
    "dataset.lr_patch_size": "lr_patch_size",
    "validation.interval": "validation_interval",
    "validation.count": "validation_count",
}


@pytest.mark.parametrize("budget", ["smoke", "short", "auto"])
@pytest.mark.parametrize("key", TYPED)
def test_a_value_on_the_command_line_overrides_the_limit_of_a_budget(budget: str, key: str):
    config = compose("trainer=cpu", f"budget={budget}", f"{key}=400")
    assert OmegaConf.select(OmegaConf.create(config.model_dump()), key) == 400
    assert config.recipe.keys() == set(TYPED.values()) - {TYPED[key]}  # the budget's other limits apply


def test_a_job_of_a_sweep_keeps_a_value_from_the_command_line(tmp_path):
    """The job reads the configuration that the sweep wrote, and does not get the sweep's command line."""
    config = compose(*SMOKE, "steps=400", "schedule=step")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        again = load(hydra.compose("config"))
    assert (again.steps, again.batch_size, again.recipe) == (400, 2, config.recipe)
    assert again.steps_of_an_epoch == config.steps_of_an_epoch == 1000


def test_an_epoch_length_from_the_command_line_is_kept(tmp_path):
    config = compose(*SMOKE, "steps_per_epoch=3")
    assert (config.steps_of_an_epoch, config.recipe["steps"]) == (3, 1_000_000)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert load(hydra.compose("config")).steps_of_an_epoch == 3


@pytest.mark.parametrize("budget", ["smoke", "short", "auto"])
def test_a_limit_on_the_command_line_replaces_the_limit_of_a_budget(budget: str):
    def steps(*typed: str) -> int:
        return compose("trainer=cpu", f"budget={budget}", *typed).steps

    assert steps("budget.max_steps=5") == 5
    assert steps("budget.max_steps=null") == 1_000_000
    config = compose("trainer=cpu", f"budget={budget}", "budget.max_batch_size=1")
    assert (config.batch_size, config.recipe["batch_size"]) == (1, 16)
    assert config.steps < 1000  # the budget's other limits apply


def test_a_row_in_a_file_is_shortened_and_a_row_on_the_command_line_is_not():
    file = compose(*SMOKE, "experiment=two_strategies/table2_hosts", "row=0")
    assert file.dataset["lr_patch_size"] == 16
    assert compose(*SMOKE, "+rows={a: ['steps=400']}", "row=0").steps == 400


def test_a_budget_limit_below_a_value_is_refused_if_both_are_on_the_command_line():
    assert "budget.max_steps to 5; leave one" in sentence(*SMOKE, "steps=9", "budget.max_steps=5")


def test_a_budget_never_lengthens_a_run():
    config = compose("trainer=cpu", "budget=short", "steps=10", "batch_size=2")
    assert (config.steps, config.batch_size, config.steps_per_epoch) == (10, 2, 1000)


def test_the_automatic_budget_is_short_on_a_cpu():
    assert compose("trainer=cpu").budget.name == "short (auto)"


def test_the_paper_budget_leaves_the_recipe_unchanged():
    assert compose("trainer=cpu", "budget=paper").steps == 1_000_000


def test_a_written_configuration_reads_back_unchanged():
    from omegaconf import OmegaConf

    config = compose(*SMOKE, "model=imdn", "upsampler=deconv", "+model.num_feat=8")
    again = configuration.load(OmegaConf.create(configuration.to_yaml(config)))
    assert again == config


def test_the_configuration_of_an_evaluation_contains_no_training_settings():
    from omegaconf import OmegaConf

    config = compose("task=evaluate", "model=bicubic", "scale=3", "trainer=cpu")
    written = OmegaConf.create(configuration.to_yaml(config))
    assert not {"dataset", "schedule", "optimizer", "loss", "steps", "budget", "validation"} & written.keys()
    again = configuration.load(written)
    assert (again.model, again.scale, again.benchmark) == (config.model, 3, config.benchmark)
    assert configuration.to_yaml(again) == configuration.to_yaml(config)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ((), "osffnet_x4"),
        (("model=imdn", "scale=2"), "imdn_x2"),
        (("model=imdn", "upsampler=deconv", "seed=1"), "imdn_x4_deconv_seed-1"),
        (("+model.num_block=3", "paths.data_dir=/x", "num_workers=0"), "osffnet_x4_num_block-3"),
        (("+model.drf_kernels=[1,3]",), "osffnet_x4_drf_kernels--1-3"),
    ],
)
def test_a_run_is_named_after_the_settings_that_differ_from_the_defaults(
    overrides: tuple[str, ...], name: str
):
    config = compose("trainer=cpu", *overrides)
    assert config.run_name == name


def test_a_long_name_keeps_every_setting_and_is_cut_in_the_middle_of_the_longest():
    long = ("+model.num_block=3", "benchmark.lr=made", "+optimizer.betas=[0.9,0.99]", "batch_size=4")
    long += ("dataset.lr_patch_size=24", "learning_rate=0.0005", "schedule=cosine", "upsampler=deconv")
    names = [compose("trainer=cpu", *long, "steps=1000", f"seed={seed}").run_name for seed in (0, 1)]
    assert [len(name) <= 100 for name in names] == [True, True]
    for part in ("osffnet_x4_", "deconv", "seed-0"):
        assert part in names[0]
    assert names[1] == names[0].replace("seed-0", "seed-1")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ((), "pretrained_a"),
        (("scale=3",), "pretrained_x3_a"),
        (("model=bicubic",), "bicubic_x4_a"),
        (("ckpt=IMDN_x4.pth",), "IMDN_x4_a"),
    ],
)
def test_a_result_of_the_weights_in_the_package_is_named_after_them(overrides: tuple[str, ...], name: str):
    assert compose("trainer=cpu", "task=upscale", "input=photos/a.png", *overrides).run_name == name


@pytest.mark.parametrize(
    ("ckpt", "name"),
    [
        ("weights/IMDN_x4.pth", "IMDN_x4"),
        ("outputs/train/imdn_x4_seed-1-0a1b2c3d", "imdn_x4_seed-1"),
        ("outputs/train/imdn_x4-0a1b2c3d/checkpoints/best.ckpt", "imdn_x4"),
    ],
)
def test_an_evaluation_is_named_after_its_checkpoint(ckpt: str, name: str):
    assert compose("trainer=cpu", "task=evaluate", f"ckpt={ckpt}").run_name == name


def test_a_value_typed_with_a_stored_configuration_is_not_scaled(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(compose(*SMOKE, "schedule=step")))
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        again = load(hydra.compose("config", ["steps=400"]), ["steps=400"])
    assert (again.steps, again.steps_of_an_epoch, "steps" in again.recipe) == (400, 1000, False)


@pytest.mark.parametrize("loggers", ["many_loggers", "[wandb,tensorboard]", "[csv,wandb,tensorboard]"])
def test_several_loggers_may_be_chosen_at_once(loggers: str):
    assert list(compose("trainer=cpu", f"logger={loggers}").logger) == ["wandb", "tensorboard"]


@pytest.mark.parametrize(
    ("debug", "steps", "batches"), [("limit", 20, None), ("profiler", 100, None), ("overfit", 300, 1)]
)
def test_debugging_shortens_the_training_but_not_its_batches(debug: str, steps: int, batches: int | None):
    config = compose("trainer=cpu", f"debug={debug}")
    assert (config.steps, config.overfit_batches, config.batch_size) == (steps, batches, 16)
    assert config.dataset["lr_patch_size"] == 48
    assert (config.validation.count, config.experiment_name, config.logger) == (1, "debug", {})
    assert compose("trainer=cpu", f"debug={debug}", "steps=7").steps == 7
