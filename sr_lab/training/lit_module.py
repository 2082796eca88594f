"""Training and measuring a network, as a LightningModule."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypedDict, cast

import lightning
import torch
from lightning.pytorch.callbacks.spike import SpikeDetection
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, distributed, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from sr_lab.datasets.patches import PatchBatch
from sr_lab.errors import CheckpointError, ConfigError
from sr_lab.inference.tiling import Tiled
from sr_lab.layers.network import colour_of
from sr_lab.layers.norm import is_batch_norm
from sr_lab.losses.weighted import WeightedLoss
from sr_lab.metrics.image_quality import MeanOverImages
from sr_lab.models.bicubic import Bicubic
from sr_lab.ops.colour import rgb_to_y
from sr_lab.ops.dihedral import dihedral
from sr_lab.protocol import Protocol
from sr_lab.system.devices import exact_float32, out_of_memory
from sr_lab.training.data_module import EvalBatch

# Settings of a Trainer that only measures a network.
TEST_ONLY: Mapping[str, Any] = {
    "precision": "32-true",
    "logger": False,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
}


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """Layers whose statistics depend on which images share a batch."""
    return [module for module in network.modules() if is_batch_norm(module)]


@dataclass(frozen=True)
class ImageResult:
    """PSNR (dB) and SSIM of one test image, measured with the protocol: on Y unless it says RGB."""

    set_name: str
    image: str
    psnr_y: float
    ssim_y: float
    bicubic_psnr_y: float
    bicubic_ssim_y: float
    perceptual: Mapping[str, float] = field(default_factory=dict)  # see `sr_lab.metrics.perceptual`


class Measured(TypedDict):
    """What a test step returns to callbacks: images in [0, 1], ``(1, C, H, W)``."""

    lr: Tensor
    bicubic: Tensor
    sr: Tensor
    set_name: str
    image: str
    figures: Tensor  # PSNR and SSIM of the SR image, then of the bicubic one; still on the device


Saved: TypeAlias = dict[str, Any]  # the content of a checkpoint

# Settings of torch's optimizers that affect how a device computes a step, but not what the step does.
_OF_THE_DEVICE = ("fused", "foreach", "capturable")


def keep_form(optimizer: Optimizer) -> None:
    """Make an optimizer load a state that was saved on another device, or in another memory layout.

    torch takes the device settings from the saved state, and leaves its tensors in the layout in which they
    were saved, although the fused kernels pair elements of the state and the weights by position.
    """
    own = [{key: group[key] for key in _OF_THE_DEVICE if key in group} for group in optimizer.param_groups]

    def before(_: Optimizer, state: Saved) -> Saved:
        pairs = zip(state["param_groups"], own, strict=True)
        return state | {"param_groups": [group | form for group, form in pairs]}

    def after(_: Optimizer) -> None:
        for weight, values in optimizer.state.items():
            for key, value in values.items():
                moment = isinstance(value, Tensor) and value.shape == weight.shape
                if moment and value.stride() != weight.stride():
                    values[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

    optimizer.register_load_state_dict_pre_hook(before)
    optimizer.register_load_state_dict_post_hook(after)


_PAIR: tuple[Literal["lr"], Literal["hr"]] = ("lr", "hr")


def _floats(images: Tensor) -> Tensor:
    """Images in [0, 1]; floats are in that range already."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def check_output(network: nn.Module, sr: object, lr: Tensor, expected: Sequence[int]) -> None:
    """Refuse what a network returns if it is not an SR image of the expected shape.

    Raises:
        ConfigError: The output is not a tensor, or has a different shape.
    """
    given = tuple(sr.shape) if isinstance(sr, Tensor) else type(sr).__name__
    if given != tuple(expected):
        raise ConfigError(
            f"model: {type(network).__name__} returns {given} for an LR batch of {tuple(lr.shape)}; it must "
            f"return a tensor {tuple(expected)}, so check its tail and what it does with scale"
        )


class SRModule(lightning.LightningModule):
    """Trains a network on patches and measures it on whole images.

    Args:
        network: ``(N, C, H, W)`` in [0, 1] -> ``(N, C, rH, rW)``.
        scale: Upscaling factor r.
        protocol: How images are measured.
        val_sets: Name and number of images of each validation set, in the order of their loaders.
        test_sets: Names of the test sets, in the order of their loaders.
        loss: ``(sr, hr) -> scalar``; needed for training only.
        make_optimizer: Called with the parameters; needed for training only.
        make_scheduler: Called with the optimizer. ``None``: the learning rate is constant.
        steps_per_unit: Optimizer steps after which the scheduler advances by one.
        monitor: A metric, e.g. ``val/psnr_y``. If given, the scheduler gets it after each validation and
            advances then, not after steps.
        record: Plain values stored in every checkpoint, from which the network can be built again.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        scale: int,
        protocol: Protocol,
        val_sets: Mapping[str, int] = MappingProxyType({}),
        test_sets: Sequence[str] = (),
        loss: nn.Module | None = None,
        make_optimizer: Callable[..., Optimizer] | None = None,
        make_scheduler: Callable[..., LRScheduler] | None = None,
        steps_per_unit: float = 1.0,
        monitor: str | None = None,
        record: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.scale = scale
        self.protocol = protocol
        self.val_sets = dict(val_sets)
        self.test_sets = tuple(test_sets)
        self.loss = loss
        self.make_optimizer = make_optimizer
        self.make_scheduler = make_scheduler
        self.steps_per_unit = steps_per_unit
        self.monitor = monitor
        self.record = dict(record or {})
        self.tiled: str | None = None  # tiles of the images that did not fit into memory
        self.results: list[ImageResult] = []
        self._measured: list[tuple[str, str, Tensor]] = []
        # A pair of metrics per set; torchmetrics sums their states over processes.
        self.val_metrics = nn.ModuleList(
            nn.ModuleList((MeanOverImages(count), MeanOverImages(count))) for count in self.val_sets.values()
        )

    def forward(self, lr: Tensor) -> Tensor:
        """``(N, C, H, W)`` in [0, 1] -> ``(N, C, rH, rW)``."""
        sr: Tensor = self.network(lr)
        return sr

    def training_step(self, batch: PatchBatch, batch_idx: int) -> Tensor | dict[str, Tensor]:
        """Loss of a batch: patches are flipped and become floats (luma if needed) on the device.

        Returns:
            The loss; for a sum of losses, ``loss`` and its ``terms``, see `WeightedLoss`.
        """
        codes = batch.get("dihedral")
        lr, hr = (_floats(batch[key] if codes is None else dihedral(batch[key], codes)) for key in _PAIR)
        if colour_of(self.network) == "y":
            lr, hr = rgb_to_y(lr), rgb_to_y(hr)
        assert self.loss is not None
        sr = self.network(lr)
        check_output(self.network, sr, lr, hr.shape)
        loss: Tensor = self.loss(sr, hr)
        # An infinite loss can have finite gradients; a factor of NaN makes all of them NaN (`NanPolicy`).
        loss = loss * ((loss - loss).detach() + 1)
        return {"loss": loss, "terms": self.loss.last} if isinstance(self.loss, WeightedLoss) else loss

    def on_validation_epoch_start(self) -> None:
        """Give all processes the same batch norm statistics; each process has seen only its own batches."""
        if distributed.is_available() and distributed.is_initialized():
            for norm in batch_norms(self.network):
                for statistic in norm.buffers():
                    distributed.broadcast(statistic, src=0)

    def validation_step(self, batch: EvalBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure one image; processes exchange nothing here."""
        if not batch["counted"]:
            return
        psnr, ssim = self.protocol.measure(
            self.upscale(batch["lr"], grey=batch["grey"]), batch["hr"], self.scale, grey=batch["grey"]
        )
        for metric, value in zip(self._val_metrics()[dataloader_idx], (psnr, ssim), strict=True):
            metric.update(value, batch["place"])

    def _val_metrics(self) -> list[tuple[MeanOverImages, MeanOverImages]]:
        """PSNR and SSIM of each validation set."""
        return cast("list[tuple[MeanOverImages, MeanOverImages]]", self.val_metrics)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/<Set>/psnr_y`` and their mean ``val/psnr_y``, which selects the best checkpoint."""
        values: dict[str, Tensor] = {}
        for name, (psnr, ssim) in zip(self.val_sets, self._val_metrics(), strict=True):
            values[f"val/{name}/psnr_y"] = psnr.compute()
            values[f"val/{name}/ssim_y"] = ssim.compute()
            psnr.reset()
            ssim.reset()
        psnrs = [value for key, value in values.items() if key.endswith("psnr_y")]
        values["val/psnr_y"] = torch.stack(psnrs).mean()
        if self.monitor is not None and self.trainer.state.fn == "fit":
            # Lightning would do this only after saving the checkpoint, and a resumed run would miss it.
            cast(ReduceLROnPlateau, self.lr_schedulers()).step(float(values[self.monitor]))
        # compute() returns the same value on every process; some accelerators have no float64.
        self.log_dict(
            {key: value.float() for key, value in values.items()}, logger=False, rank_zero_only=False
        )

    def on_test_start(self) -> None:
        """Drop the results of an earlier test."""
        self.results, self._measured = [], []

    def test_step(self, batch: EvalBatch, batch_idx: int, dataloader_idx: int = 0) -> Measured | None:
        """Measure one image, and the bicubic upscaling of its LR image."""
        if not batch["counted"]:
            return None
        sr = self.upscale(batch["lr"], grey=batch["grey"])
        bicubic = self.protocol.bicubic(batch["lr"], self.scale)
        psnr, ssim = self.protocol.measure(sr, batch["hr"], self.scale, grey=batch["grey"])
        base_psnr, base_ssim = self.protocol.measure(bicubic, batch["hr"], self.scale, grey=batch["grey"])
        set_name, image = self.test_sets[dataloader_idx], batch["name"]
        # PSNR and SSIM stay on the device: fetching them for every image would wait for the device.
        figures = torch.cat((psnr, ssim, base_psnr, base_ssim))
        self._measured.append((set_name, image, figures))
        return {
            "lr": batch["lr"],
            "bicubic": bicubic,
            "sr": sr,
            "set_name": set_name,
            "image": image,
            "figures": figures,
        }

    def on_test_epoch_end(self) -> None:
        """Fetch PSNR and SSIM from the device."""
        if self._measured:  # a process may have had no image
            figures = torch.stack([figures for *_, figures in self._measured]).tolist()
            self.results = [
                ImageResult(set_name, image, *values)
                for (set_name, image, _), values in zip(self._measured, figures, strict=True)
            ]

    def upscale(self, lr: Tensor, *, grey: bool = False) -> Tensor:
        """SR image of one LR image, in float32 regardless of the training precision.

        ``model=bicubic`` rounds and clips as the protocol's bicubic row does, so that the two agree.
        """
        if isinstance(self.network.network if isinstance(self.network, Tiled) else self.network, Bicubic):
            return self.protocol.bicubic(lr, self.scale)
        colour = colour_of(self.network)
        with exact_float32(), torch.autocast(lr.device.type, enabled=False):
            # forward() bypasses torch.compile, which would compile again for every image size.
            image = self.protocol.network_input(lr, colour, grey=grey).float()
            try:
                sr: Tensor = self.network.forward(image)
                return sr
            except Exception as error:
                if not out_of_memory(error):
                    raise
            # Outside the handler, since the error keeps the whole image's memory allocated.
            return self._in_tiles(image)

    def _in_tiles(self, image: Tensor) -> Tensor:
        """Upscale an image too large for memory in tiles of half its size, then a quarter, and so on."""
        side = max(image.shape[-2:])
        while side > 1:
            side = -(-side // 2)
            if image.device.type == "cuda":
                torch.cuda.empty_cache()
            tiled = Tiled(self.network, tile=side)
            try:
                sr: Tensor = tiled(image)
            except ConfigError:  # the tile is not larger than the overlap
                break
            except Exception as error:
                if not out_of_memory(error):
                    raise
                continue
            self.tiled = tiled.note
            return sr
        raise torch.OutOfMemoryError("no tile is small enough")

    def configure_optimizers(self) -> Optimizer | OptimizerLRSchedulerConfig:
        """Optimizer and scheduler; the scheduler is called after every step, see ``lr_scheduler_step``."""
        assert self.make_optimizer is not None
        optimizer = self.make_optimizer([weight for _, weight in self.trained()])
        keep_form(optimizer)
        if self.make_scheduler is None:
            return optimizer
        scheduler = self.make_scheduler(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "reduce_on_plateau": False},
        }

    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """Names and weights that the optimizer gets: all that are not frozen."""
        return [(name, weight) for name, weight in self.network.named_parameters() if weight.requires_grad]

    def lr_scheduler_step(self, scheduler: LRScheduler, metric: object) -> None:
        """Advance the schedule to ``global_step``; a unit need not be a whole number of steps."""
        if self.monitor is not None:  # the schedule advances after a validation
            return
        unit = int(self.global_step / self.steps_per_unit + 1e-9)  # 6 / 0.006 is 999.9999999999999
        while scheduler.last_epoch < unit:
            scheduler.step()

    def on_train_start(self) -> None:
        """Let a frozen batch norm keep its statistics, and check that all processes begin at the same step.

        Processes at different steps would use wrong samples or hang.

        Raises:
            CheckpointError: A machine does not see the checkpoint from which the other machines resume.
        """
        for norm in batch_norms(self.network):
            weights = list(norm.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                norm.eval()  # Lightning restores the mode of each module after a validation
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        steps: list[int] = [0] * distributed.get_world_size()
        distributed.all_gather_object(steps, self.global_step)
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"resume: the processes begin at different steps, {', '.join(map(str, steps))}; all machines "
                "must see the same run folder: put paths.output_dir on a file system that they share"
            )

    def on_save_checkpoint(self, checkpoint: Saved) -> None:
        """Store the network's configuration, as plain values that ``weights_only`` loading accepts."""
        checkpoint["sr_lab"] = self.record

    def on_load_checkpoint(self, checkpoint: Saved) -> None:
        """Convert the batch count to this run's accumulation, which may differ from the saved run's.

        Lightning restores the count, and uses it to decide which batches make a step and when to validate.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        batches = checkpoint["global_step"] * self.trainer.accumulate_grad_batches
        for count in (progress["total"], progress["current"]):
            if count["ready"] != batches:
                count.update(dict.fromkeys(count, batches))
        states = checkpoint["callbacks"]
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, SpikeDetection):
                # Lightning 2.6 cannot load this state, which also names an output file; ten steps rebuild it.
                states.pop(callback.state_key, None)
        for key in [key for key in states if str(key).startswith("Checkpoints{'monitor': None")]:
            del states[key]  # the callback that saved last.ckpt in earlier versions
