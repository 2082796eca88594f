"""Before anything is read: what is trained, and whether the optimizer and the schedule fit it."""

import lightning
import pytest
import torch
from torch import nn

from sr_lab.config import targets
from sr_lab.errors import ConfigError
from sr_lab.layers.norm import is_batch_norm
from sr_lab.training import build, recipe
from tests import tiny
from tests.composing import compose
from tests.reliability.plugins import Noise

SMALL = ("trainer=cpu", "budget=smoke", "model=imdn", "+model.num_feat=16", "+model.num_block=2", "scale=2")


def built(*overrides: str, said: list[str] | None = None):
    config = compose(*SMALL, *overrides)
    return build.module(config, tiny.PROTOCOL, [], [], ([] if said is None else said).append)


def frozen(module) -> set[str]:
    return {name for name, weight in module.network.named_parameters() if not weight.requires_grad}


@pytest.mark.parametrize(
    ("patterns", "rule"),
    [
        ("[body]", lambda name: name.startswith("body.")),
        ("[body.0,tail]", lambda name: name.startswith(("body.0.", "tail."))),
        ("['body.*.conv1']", lambda name: name.startswith("body.") and name.split(".")[2] == "conv1"),
        ("['*.bias']", lambda name: name.endswith(".bias")),
        ("['body.[1-9]']", lambda name: name.startswith("body.1.")),
    ],
)
def test_a_pattern_freezes_the_weights_whose_name_or_beginning_it_matches(patterns, rule):
    module = built(f"freeze={patterns}")
    names = {name for name, _ in module.network.named_parameters()}
    assert frozen(module) == {name for name in names if rule(name)} != set()
    kept = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert len(kept) == len(names) - len(frozen(module))


def test_a_pattern_that_matches_nothing_names_the_parts_of_the_network():
    with pytest.raises(ConfigError, match=r"no weight of IMDN matches 'backbone'; its parts are head, body"):
        built("freeze=[head,backbone]")


def test_freezing_everything_leaves_nothing_to_train():
    with pytest.raises(ConfigError, match="IMDN has only frozen weights; leave some of them out of freeze"):
        built("freeze=['*']")


def test_a_run_with_frozen_weights_is_a_different_run_and_one_without_keeps_its_hash():
    from sr_lab.config.identity import identity

    plain, part, same = (
        identity(compose(*SMALL, *each)) for each in ((), ("freeze=[body]",), ("freeze=[]",))
    )
    assert part == plain | {"freeze": ["body"]}
    assert same == plain


class WithNorms(tiny.TinyNet):
    """Two batch norms, the first of which a test freezes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, lr):
        return super().forward(self.second(self.first(lr)))


@pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning")
@pytest.mark.filterwarnings(r"ignore:.*does not have many workers")
def test_a_frozen_batch_norm_keeps_its_statistics_even_after_a_validation(tmp_path):
    network = WithNorms()
    recipe.freeze(network, ["first"])
    images = tiny.Images("A", 1)
    module = tiny.sr_module(network=network, val=[images])
    tiny.trainer(tmp_path, max_steps=4, val_check_interval=2).fit(module, tiny.data(val=[images]))
    first, second = filter(is_batch_norm, network.modules())
    assert (int(first.num_batches_tracked), int(second.num_batches_tracked)) == (0, 4)
    assert torch.equal(first.running_mean, torch.zeros(3))


def test_an_optimizer_that_refuses_a_shape_names_the_weight():
    with pytest.raises(ConfigError) as caught:
        built("~optimizer.lr", "optimizer._target_=torch.optim.Muon", "+optimizer.lr=0.01")
    said = str(caught.value)
    assert said.startswith("optimizer: refuses head.")
    assert "whose shape is (16, 3, 3, 3) (Muon only supports 2D parameters" in said
    assert said.endswith("use optimizer=adam, or leave such weights out with freeze=[...]")


def test_an_optimizer_that_refuses_its_settings_says_that_instead():
    with pytest.raises(ConfigError, match=r"torch\.optim\.adam\.Adam: .*Invalid beta"):
        built("+optimizer.betas=[2.0,0.9]")


ONE_CYCLE = (
    "~schedule.scheduler.T_max",
    "~schedule.scheduler.eta_min",
    "schedule.scheduler._target_=torch.optim.lr_scheduler.OneCycleLR",
    "+schedule.scheduler.max_lr=1e-3",
)


def test_a_cycle_shorter_than_the_training_is_refused_and_a_longer_one_gets_a_note():
    with pytest.raises(ConfigError, match=r"ends after 5 of 6 steps; .*='\$\{steps\}'"):
        built(*ONE_CYCLE, "+schedule.scheduler.total_steps=5")
    said: list[str] = []
    built(*ONE_CYCLE, "+schedule.scheduler.total_steps=${steps}", said=said)
    assert said == []
    built(*ONE_CYCLE, "+schedule.scheduler.total_steps=7", said=said)
    assert said == [
        "schedule: OneCycleLR takes 7 steps, but this training run has only 6 for it, so the cycle stops "
        "midway; set its total_steps to 6 (schedule.scheduler.total_steps='${steps}')"
    ]


def test_a_cycle_inside_a_sequence_has_the_steps_from_its_milestone_on():
    def module(length: int):
        def make(optimizer):
            inner = [
                torch.optim.lr_scheduler.ConstantLR(optimizer),
                torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=length, cycle_momentum=False),
            ]
            return torch.optim.lr_scheduler.SequentialLR(optimizer, inner, milestones=[2])

        return tiny.sr_module(make_scheduler=make)

    recipe.check(module(4), steps=6, interval="step", say=pytest.fail)
    with pytest.raises(ConfigError, match="ends after 3 of 4 steps"):
        recipe.check(module(3), steps=6, interval="step", say=pytest.fail)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("schedule=plateau", "schedule.interval=step"), "ReduceLROnPlateau needs validation, got step"),
        (("schedule.interval=validation",), "CosineAnnealingLR needs step or epoch, got validation"),
        (("schedule=plateau", "schedule.monitor=val/loss"), r"got val/loss; allowed: val/psnr_y"),
        (("+schedule.monitor=val/psnr_y",), "CosineAnnealingLR monitors no metric, got val/psnr_y"),
    ],
)
def test_a_schedule_that_does_not_fit_its_interval_is_refused(settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        built(*settings)


REFUSED = {
    "LearningRateFinder": "-m learning_rate=",
    "BatchSizeFinder": "trainer.accumulate_grad_batches=2",
    "BackboneFinetuning": "freeze=[head,body]",
    "BaseFinetuning": "freeze=",
    "GradientAccumulationScheduler": "trainer.accumulate_grad_batches=2",
    "StochasticWeightAveraging": "ema_decay=0.999",
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("package", ["lightning.pytorch.callbacks", "pytorch_lightning.callbacks.x"])
def test_a_callback_that_does_not_fit_an_endless_epoch_is_refused_with_what_to_use_instead(name, package):
    with pytest.raises(ConfigError) as caught:
        compose("trainer=cpu", f"+callbacks.mine._target_={package}.{name}")
    said = str(caught.value)
    assert said.startswith(f"callbacks.mine._target_: '{package}.{name}' may not be named here, since ")
    assert REFUSED[name] in said


class Unfreezing(lightning.pytorch.callbacks.BaseFinetuning):
    """A user's own callback."""


def test_a_users_own_callback_that_derives_from_one_of_them_is_refused_too():
    with pytest.raises(ConfigError, match=r"callbacks\.mine: Unfreezing is a BaseFinetuning, .*freeze="):
        targets.refuse_callback("callbacks.mine", Unfreezing())
    targets.refuse_callback("callbacks.noise", Noise())
