import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sr_lab.errors import ConfigError
from sr_lab.layers.folding import fold
from sr_lab.models.bicubic import Bicubic
from sr_lab.models.imdn import IMDN
from sr_lab.models.osffnet import OSFFNet
from sr_lab.models.srcnn import SRCNN
from sr_lab.strategies import cwss, ggas, ggas_cwss

Apply = Callable[[nn.Module], nn.Module]
STRATEGIES = pytest.mark.parametrize(
    "apply", [ggas.apply, cwss.apply, ggas_cwss.apply], ids=["ggas", "cwss", "both"]
)


def imdn() -> nn.Module:
    torch.manual_seed(0)
    return IMDN(scale=2, num_feat=16, num_block=2)


def osffnet() -> nn.Module:
    torch.manual_seed(0)
    return OSFFNet(scale=2, num_feat=16, num_block=2)


HOSTS = pytest.mark.parametrize("host", [imdn, osffnet])


def image(seed: int = 0) -> Tensor:
    return torch.rand(2, 3, 16, 20, generator=torch.Generator().manual_seed(seed))


def forget_everything(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()


def by_hand(model: nn.Module, lr: Tensor) -> Tensor:
    """Compute IMDN with its strategies directly from Eqs. 3 and 8."""
    strategies = model.strategy
    shallow = model.head.forward(lr)
    gate = strategies["ggas"].gab(shallow) if "ggas" in strategies else torch.ones(())
    feat, stages = shallow, []
    for k, block in enumerate(model.body):
        scaled = strategies["cwss"].scales[k].alpha * feat if "cwss" in strategies else feat
        feat = block.forward(scaled) * gate
        stages.append(feat)
    return model.tail.forward(model.fusion(torch.cat(stages, dim=1)) + shallow)


# IMDN x4 with C = 64 has 715,176. GAB adds C^2 + (K^2 + 4) C in training; CWSS adds C for each of six inputs.
@pytest.mark.parametrize(
    ("apply", "added"), [(ggas.apply, 7_488), (cwss.apply, 384), (ggas_cwss.apply, 7_488 + 384)]
)
def test_a_strategy_adds_the_parameters_given_in_the_paper(apply: Apply, added: int):
    model = apply(IMDN(scale=4))
    assert sum(p.numel() for p in model.parameters()) == 715_176 + added


# Table 2 of the paper prints 715/722/715/722.
@pytest.mark.parametrize(("apply", "thousands"), [(ggas.apply, 722.536), (ggas_cwss.apply, 722.920)])
def test_imdn_folded_for_inference_has_the_printed_parameter_count(apply: Apply, thousands: float):
    model = apply(IMDN(scale=4))
    fold(model)
    assert sum(p.numel() for p in model.parameters()) / 1000 == thousands


@STRATEGIES
def test_the_output_equals_the_output_of_the_equations(apply: Apply):
    model = apply(imdn()).eval()
    torch.testing.assert_close(model(image()), by_hand(model, image()), rtol=0, atol=0)


@HOSTS
def test_folding_keeps_the_output(host: Callable[[], nn.Module]):
    model = ggas.apply(host())
    for seed in range(3):
        model(image(seed))  # makes running statistics differ from their initial values
    model.eval()
    before = model(image())
    fold(model)
    torch.testing.assert_close(model(image()), before, rtol=0, atol=1e-5)


@HOSTS
@STRATEGIES
def test_the_hosts_state_dict_keys_do_not_change(apply: Apply, host: Callable[[], nn.Module]):
    keys = list(host().state_dict())
    state = apply(host()).state_dict()
    assert [name for name in state if not name.startswith("strategy.")] == keys


@HOSTS
@STRATEGIES
def test_every_parameter_gets_a_gradient(apply: Apply, host: Callable[[], nn.Module]):
    model = apply(host())
    model(image()).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@HOSTS
@STRATEGIES
def test_a_copy_made_after_a_step_is_independent(apply: Apply, host: Callable[[], nn.Module]):
    model = apply(host())
    model(image()).sum().backward()
    copied = copy.deepcopy(model).eval()
    expected = model.eval()(image())
    forget_everything(model)
    torch.testing.assert_close(copied(image()), expected, rtol=0, atol=0)


@STRATEGIES
def test_no_attention_map_is_kept_after_a_forward_pass(apply: Apply):
    model = apply(imdn())
    model(image())
    kept = [
        value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)
    ]
    assert kept == []


def test_compiled_code_of_another_strategy_is_not_reused():
    for model in (
        imdn().eval(),
        *(apply(imdn()).eval() for apply in (ggas.apply, cwss.apply, ggas_cwss.apply)),
    ):
        compiled = torch.compile(model, backend="eager")  # traces and guards like any other backend
        torch.testing.assert_close(compiled(image()), model(image()), rtol=0, atol=1e-6)


@STRATEGIES
def test_a_network_with_a_strategy_can_be_exported(apply: Apply):
    model = apply(imdn()).eval()
    exported = torch.export.export(model, (image(),)).module()
    torch.testing.assert_close(exported(image()), model(image()), rtol=0, atol=1e-6)


@HOSTS
@STRATEGIES
def test_averaged_weights_include_the_strategy(apply: Apply, host: Callable[[], nn.Module]):
    model = apply(host())
    averaged = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    model(image()).sum().backward()
    averaged.update_parameters(model)
    expected = model.eval()(image())
    forget_everything(model)
    torch.testing.assert_close(averaged.eval()(image()), expected, rtol=0, atol=1e-6)


def test_a_strategy_cannot_be_applied_twice():
    with pytest.raises(ConfigError, match="IMDN already has ggas"):
        ggas.apply(ggas.apply(imdn()))


@STRATEGIES
def test_a_network_without_blocks_is_refused(apply: Apply):
    with pytest.raises(ConfigError, match=r"Bicubic has no (body|head).*strategy=none"):
        apply(Bicubic(scale=2))


def test_no_attention_map_is_kept_after_a_failed_forward_pass():
    model = ggas.apply(osffnet())
    with pytest.raises(ConfigError, match="at least 15x15"):
        model(torch.rand(1, 3, 8, 8))
    copy.deepcopy(model)


def test_channel_scaling_changes_the_output_of_osffnet():
    # In training mode, because a batch norm at the input of a block would undo any scaling.
    model = cwss.apply(osffnet())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-12
    with torch.no_grad():
        before = model(image())
        for scale in model.strategy["cwss"].scales:
            scale.alpha.mul_(0.5)
    assert (model(image()) - before).abs().max() > 1e-4


@pytest.mark.parametrize("apply", [ggas.apply, cwss.apply])
def test_a_network_with_an_empty_body_is_refused(apply: Apply):
    with pytest.raises(ConfigError, match="SRCNN has no"):
        apply(SRCNN(scale=2))
