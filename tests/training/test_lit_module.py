import copy
import statistics
import weakref

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sr_lab.inference.tiling import Tiled
from sr_lab.models.bicubic import Bicubic
from sr_lab.protocol import PROTOCOLS
from sr_lab.system.devices import exact_float32
from sr_lab.training.data_module import ImageLoader, RankShare
from sr_lab.training.lit_module import SRModule
from tests import tiny
from tests.operators import FETCH, Operators

pytestmark = [
    # warnings about Lightning's own code, and its advice for long training runs
    pytest.mark.filterwarnings(r"ignore:.*isinstance\(treespec, LeafSpec\):FutureWarning"),
    pytest.mark.filterwarnings(r"ignore:.*does not have many workers"),
]


class Rates(lightning.Callback):
    """Records the learning rate of each optimizer step."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        self.taken.append(optimizer.param_groups[0]["lr"])


def rates(folder, steps: int, steps_per_unit: float, **settings: object) -> list[float]:
    """The learning rates of a training run with a schedule that halves the rate after every unit."""
    module = tiny.sr_module(
        learning_rate=1.0,
        make_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5),
        steps_per_unit=steps_per_unit,
    )
    watch = Rates()
    tiny.trainer(folder, max_steps=steps, limit_val_batches=0, callbacks=[watch], **settings).fit(
        module, tiny.data(train=tiny.Patches(size=2), **({"accumulate": 2} if settings else {}))
    )
    return watch.taken


def test_a_schedule_per_step_advances_after_every_step(tmp_path):
    assert rates(tmp_path, 4, 1.0) == [1, 1 / 2, 1 / 4, 1 / 8]


def test_a_schedule_per_epoch_advances_after_the_steps_of_an_epoch(tmp_path):
    assert rates(tmp_path, 7, 3.0) == [1, 1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 4]


def test_a_schedule_with_two_and_a_half_steps_per_epoch_advances_after_three_and_five_steps(tmp_path):
    assert rates(tmp_path, 7, 2.5) == [1, 1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4]


def test_a_schedule_with_epochs_shorter_than_a_step_advances_several_epochs_at_once(tmp_path):
    assert rates(tmp_path, 4, 0.5) == [1, 1 / 4, 1 / 16, 1 / 64]


def test_accumulated_batches_count_as_one_step_of_the_schedule(tmp_path):
    assert rates(tmp_path, 3, 1.0, accumulate_grad_batches=2) == [1, 1 / 2, 1 / 4]


@pytest.mark.parametrize(("steps", "most"), [(1_000_000, 300), (1_000_000, 6), (900_000, 6), (500_000, 300)])
def test_a_schedule_with_shortened_epochs_ends_at_the_same_unit_as_the_full_schedule(
    monkeypatch, steps, most
):
    """A budget shortens the epochs of 1000 steps; rounding must not lose the last unit."""
    module = tiny.sr_module(learning_rate=1.0, steps_per_unit=1000.0 * most / steps)
    monkeypatch.setattr(type(module), "global_step", most)
    configured = module.configure_optimizers()
    configured["optimizer"].step()  # avoids torch's warning about the order
    scheduler = configured["lr_scheduler"]["scheduler"]
    module.lr_scheduler_step(scheduler, None)
    assert scheduler.last_epoch == steps // 1000


def test_the_loss_of_a_batch_equals_the_loss_computed_by_hand():
    module = tiny.sr_module()
    nn.init.zeros_(module.network.head.weight)
    nn.init.constant_(module.network.head.bias, 0.5)  # sr is 0.5 everywhere
    batch = {
        "lr": torch.zeros(1, 3, 2, 2, dtype=torch.uint8),
        "hr": torch.full((1, 3, 4, 4), 51, dtype=torch.uint8),  # 0.2
        "name": ["a"],
        "dihedral": torch.zeros(1, dtype=torch.uint8),
    }
    assert module.training_step(batch, 0).item() == pytest.approx(0.3, abs=1e-6)


class Upscale(nn.Module):
    """Nearest-neighbour upsampling, which commutes with every flip."""

    def forward(self, lr: Tensor) -> Tensor:
        return lr.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@pytest.mark.parametrize("code", range(8))
def test_lr_and_hr_are_flipped_in_the_same_way(code):
    lr = torch.arange(27, dtype=torch.uint8).view(1, 3, 3, 3)
    batch = {"lr": lr, "hr": Upscale()(lr), "name": ["a"], "dihedral": torch.tensor([code])}
    module = tiny.sr_module(network=Upscale())
    assert module.training_step(batch, 0).item() == 0


def test_the_network_gets_flipped_inputs():
    seen = []

    class Watch(Upscale):
        def forward(self, lr: Tensor) -> Tensor:
            seen.append(lr)
            return super().forward(lr)

    lr = torch.arange(27, dtype=torch.uint8).view(1, 3, 3, 3)
    module = tiny.sr_module(network=Watch())
    module.training_step({"lr": lr, "hr": Upscale()(lr), "name": ["a"], "dihedral": torch.tensor([1])}, 0)
    torch.testing.assert_close(seen[0] * 255, lr.flip(-1).float())


def validated(tmp_path) -> dict[str, float]:
    sets = [tiny.Images("A", 2), tiny.Images("B", 3)]
    module = tiny.sr_module(val=sets)
    trainer = tiny.trainer(tmp_path)
    trainer.validate(module, datamodule=tiny.data(val=sets), verbose=False)
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def test_validation_gives_psnr_and_ssim_of_each_set_and_their_mean(tmp_path):
    keys = {"val/A/psnr_y", "val/A/ssim_y", "val/B/psnr_y", "val/B/ssim_y", "val/psnr_y"}
    assert set(validated(tmp_path)) == keys


def test_the_validation_psnr_of_a_set_is_the_mean_over_its_images(tmp_path):
    images = tiny.Images("B", 3)
    network = tiny.sr_module().network.eval()
    with torch.no_grad():
        expected = [
            tiny.PROTOCOL.measure(network(item["lr"][None]), item["hr"][None], 2)[0].item()
            for item in (images[index] for index in range(3))
        ]
    assert validated(tmp_path)["val/B/psnr_y"] == pytest.approx(statistics.fmean(expected), abs=1e-5)


def test_checkpoints_are_chosen_by_the_mean_over_sets_whatever_their_size(tmp_path):
    values = validated(tmp_path)
    assert values["val/psnr_y"] == pytest.approx(
        (values["val/A/psnr_y"] + values["val/B/psnr_y"]) / 2, abs=1e-5
    )


def test_a_second_validation_starts_with_fresh_metrics(tmp_path):
    images = tiny.Images("A", 2)
    module = tiny.sr_module(val=[images])
    trainer = tiny.trainer(tmp_path)

    def validate() -> dict[str, float]:
        trainer.validate(module, datamodule=tiny.data(val=[images]), verbose=False)
        return {key: value.item() for key, value in trainer.callback_metrics.items()}

    weights = copy.deepcopy(module.network.state_dict())
    first = validate()
    nn.init.zeros_(module.network.head.weight)
    assert validate() != first
    module.network.load_state_dict(weights)
    assert validate() == first


def test_a_test_gives_each_image_the_metrics_of_the_protocol(tmp_path):
    images = tiny.Images("A", 2)
    module = tiny.sr_module(test=[images])
    tiny.trainer(tmp_path).test(module, datamodule=tiny.data(test=[images]), verbose=False)
    for index, result in enumerate(module.results):
        lr, hr = images[index]["lr"][None], images[index]["hr"][None]
        with torch.no_grad():
            psnr, ssim = tiny.PROTOCOL.measure(module.network(lr), hr, 2)
        base_psnr, base_ssim = tiny.PROTOCOL.measure(tiny.PROTOCOL.bicubic(lr, 2), hr, 2)
        assert (result.set_name, result.image) == ("A", f"image{index}")
        assert [result.psnr_y, result.ssim_y] == [psnr.item(), ssim.item()]
        assert [result.bicubic_psnr_y, result.bicubic_ssim_y] == [base_psnr.item(), base_ssim.item()]
    assert len(module.results) == 2


@pytest.mark.parametrize("tiled", [False, True], ids=["whole", "tiled"])
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_bicubic_as_a_model_has_the_figures_of_the_bicubic_row(protocol, tiled):
    noise = np.random.default_rng(0).random((48, 52, 3)) > 0.5  # overshoots the range everywhere
    hr = torch.from_numpy(noise.astype(np.uint8) * 255).permute(2, 0, 1)[None]
    network = Tiled(Bicubic(scale=2)) if tiled else Bicubic(scale=2)
    module = SRModule(network, scale=2, protocol=protocol)
    lr = protocol.make_lr(hr, 2)
    figures = protocol.measure(module.upscale(lr), hr, 2)
    assert figures == protocol.measure(protocol.bicubic(lr, 2), hr, 2)


def test_no_image_of_a_test_or_validation_waits_for_the_device():
    images = tiny.Images("A", 3)
    module = tiny.sr_module(val=[images], test=[images])
    with torch.no_grad(), Operators() as operators:
        for batch in ImageLoader(RankShare(images, rank=0, world=1)):
            module.test_step(batch, 0)
            module.validation_step(batch, 0)
        assert operators.counts[FETCH] == 0
        torch.ones(1).item()
    assert operators.counts[FETCH] == 1  # a fetch is counted
    assert module.results == []
    module.on_test_epoch_end()
    assert [result.image for result in module.results] == ["image0", "image1", "image2"]


def test_a_second_test_discards_the_results_of_the_first(tmp_path):
    images = tiny.Images("A", 2)
    module = tiny.sr_module(test=[images])
    trainer = tiny.trainer(tmp_path)
    for _ in range(2):
        trainer.test(module, datamodule=tiny.data(test=[images]), verbose=False)
    assert len(module.results) == 2


def test_metrics_use_float32_outputs_under_bf16_autocast():
    module, lr = tiny.sr_module(), torch.rand(1, 3, 5, 7)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert module.network(lr).dtype == torch.bfloat16  # the dtype of training in bf16-mixed
        sr = module.upscale(lr)
    assert sr.dtype == torch.float32
    torch.testing.assert_close(sr, module.network(lr), rtol=0, atol=0)


def test_metrics_use_outputs_computed_without_tf32():
    seen = []

    class Watch(tiny.TinyNet):
        def forward(self, lr: Tensor) -> Tensor:
            seen.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            return super().forward(lr)

    tiny.sr_module(network=Watch()).upscale(torch.rand(1, 3, 4, 4))
    assert seen == [(False, False)]


@pytest.fixture
def tf32():
    """torch's TF32 switches, restored after the test."""
    cudnn, matmul = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield torch.backends
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = cudnn, matmul


@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("matmul", [True, False])
def test_the_tf32_switches_are_restored_even_after_an_error(tf32, cudnn, matmul):
    tf32.cudnn.allow_tf32, tf32.cuda.matmul.allow_tf32 = cudnn, matmul
    with pytest.raises(RuntimeError, match="died"), exact_float32():
        raise RuntimeError("died")
    assert (tf32.cudnn.allow_tf32, tf32.cuda.matmul.allow_tf32) == (cudnn, matmul)


def trained(form: torch.memory_format, **settings: object) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A convolution in a memory layout, and its optimizer."""
    torch.manual_seed(0)
    network = nn.Conv2d(4, 6, 3).to(memory_format=form)
    module = tiny.sr_module(
        network=network, make_optimizer=lambda weights: torch.optim.Adam(weights, lr=0.1, **settings)
    )
    return network, module.configure_optimizers()["optimizer"]


def steps(network: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        optimizer.zero_grad()
        lr = torch.rand(1, 4, 5, 5, generator=torch.Generator().manual_seed(number))
        network(lr).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_a_run_resumes_in_another_memory_layout(fused):
    whole, optimizer = trained(torch.contiguous_format, fused=fused)
    steps(whole, optimizer, 2)
    resumed, other = trained(torch.channels_last, fused=fused)
    resumed.load_state_dict(whole.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    moment = other.state[resumed.weight]["exp_avg"]
    assert moment.stride() == resumed.weight.stride() != whole.weight.stride()
    for network, own in ((whole, optimizer), (resumed, other)):
        steps(network, own, 1)
    torch.testing.assert_close(resumed.weight, whole.weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("saved", "now"), [(None, True), (True, None)])
def test_a_run_resumes_whether_or_not_its_optimizer_was_fused(saved, now):
    before, optimizer = trained(torch.contiguous_format, fused=saved)
    steps(before, optimizer, 1)
    after, other = trained(torch.contiguous_format, fused=now)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    (group,) = other.param_groups
    assert (group["fused"], group["lr"]) == (now, 0.1)
    steps(after, other, 1)


@pytest.mark.parametrize(
    ("kind", "text"),
    [(torch.OutOfMemoryError, "full"), (RuntimeError, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED")],
)
def test_tiling_starts_after_the_memory_of_the_whole_image_is_freed(kind, text):
    class Small(tiny.TinyNet):
        features: weakref.ref[Tensor] | None = None

        def forward(self, lr: Tensor) -> Tensor:
            if lr.device.type == "meta" or lr.dtype == torch.float64:  # a call by `footprint.reach`
                return super().forward(lr)
            assert self.features is None or self.features() is None
            if lr.shape[-1] > 16:
                features = torch.rand(1, 64, *lr.shape[-2:])
                self.features = weakref.ref(features)
                raise kind(text)
            return super().forward(lr)

    network, lr = Small(), torch.rand(1, 3, 20, 40)
    module = tiny.sr_module(network=network)
    with torch.no_grad():
        torch.testing.assert_close(module.upscale(lr), network.tail(network.head(lr)), rtol=0, atol=1e-6)
    assert network.features is not None
    assert module.tiled is not None


def test_a_luma_network_gets_only_luma():
    class Luma(nn.Module):
        colour = "y"

        def forward(self, lr: Tensor) -> Tensor:
            assert lr.shape == (1, 1, 4, 4)
            return lr.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    assert tiny.sr_module(network=Luma()).upscale(torch.rand(1, 3, 4, 4)).shape == (1, 1, 8, 8)


def test_a_checkpoint_contains_the_record_that_builds_its_network():
    checkpoint: dict[str, object] = {}
    tiny.sr_module(record={"scale": 2}).on_save_checkpoint(checkpoint)
    assert checkpoint == {"sr_lab": {"scale": 2}}
