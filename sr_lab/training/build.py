"""Builds a training run from its configuration: network, module, layout, compilation, callbacks, Trainer."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn

from sr_lab.checkpoints.opening import build_network, fitting_scales
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.scale_in_name import named_scale
from sr_lab.checkpoints.weights import take_over
from sr_lab.config import targets
from sr_lab.config.schema import TrainConfig
from sr_lab.config.untrusted import below, stored_network
from sr_lab.datasets.benchmark import MeasuredSet
from sr_lab.datasets.pairs import TrainingSet
from sr_lab.datasets.patches import PatchBatch
from sr_lab.errors import ConfigError
from sr_lab.layers.network import colour_of, min_size_of, num_image_ch
from sr_lab.ops.complexity import num_params
from sr_lab.protocol import Protocol
from sr_lab.run_folder import RunFolder
from sr_lab.system import distributed
from sr_lab.system.devices import device_of, has_gpu, resolve_precision, why_no_compiler
from sr_lab.system.signals import Signals
from sr_lab.training import recipe
from sr_lab.training.autotune import Choice, Setting, choose, settings
from sr_lab.training.checkpointing import LAST, Checkpoints, DurableCheckpointIO, RandomState
from sr_lab.training.data_module import SRDataModule, repeated
from sr_lab.training.ending import Ending, SaveLast
from sr_lab.training.examples import ExampleImages
from sr_lab.training.lit_module import SRModule, check_output
from sr_lab.training.loggers import RowInSummary
from sr_lab.training.nan_policy import NanPolicy
from sr_lab.training.progress import TrainingProgress
from sr_lab.training.record import Record, Speed, TimedLoader
from sr_lab.training.weight_average import WeightAverage

_Callback = TypeVar("_Callback", bound=Callback)


def module(
    config: TrainConfig,
    protocol: Protocol,
    val_sets: Sequence[MeasuredSet],
    test_sets: Sequence[MeasuredSet],
    say: Callable[[str], None],
) -> SRModule:
    """The network, with the weights of ``init_ckpt`` if given, and everything that trains and measures it.

    Raises:
        ConfigError: No weight is trained, or the optimizer or the schedule does not fit; see `recipe`.
    """
    network = build_network(config, config.allow)
    if config.init_ckpt is not None:
        left = take_over(network, open_checkpoint(config.init_ckpt, "init_ckpt", say))
        names = f", which keep their initial values: {', '.join(left)}" if left else ""
        say(f"weights from {config.init_ckpt}: the file lacks {len(left)} of the network's weights{names}")
    if config.freeze and (frozen := recipe.freeze(network, config.freeze)):
        initial = ", which keep their random initial values, since there is no init_ckpt"
        initial = initial if config.init_ckpt is None else ""
        say(f"freeze: {frozen / 1e3:.1f} K of {num_params(network) / 1e3:.1f} K parameters{initial}")
    made = SRModule(
        network,
        scale=config.scale,
        protocol=protocol,
        val_sets={images.name: len(images) for images in val_sets},
        test_sets=[images.name for images in test_sets],
        loss=targets.build("loss", config.loss, config.allow),
        make_optimizer=optimizer_factory(config),
        make_scheduler=targets.build("schedule", config.schedule.scheduler, config.allow),
        steps_per_unit=config.steps_of_an_epoch if config.schedule.interval == "epoch" else 1.0,
        monitor=config.schedule.monitor,
        record=config.model_dump(include={"model", "upsampler", "strategy", "scale"}) | {"version": 1},
    )
    if not made.trained():
        why = "has no weights to train; use task=evaluate"
        if config.freeze:
            why = "has only frozen weights; leave some of them out of freeze"
        raise ConfigError(f"model: {type(network).__name__} {why}")
    recipe.check(made, steps=config.steps, interval=config.schedule.interval, say=say)
    return made


def started_from(config: TrainConfig) -> dict[str, object]:
    """What a run records about ``init_ckpt``: its network and its scale; ``None`` if unknown.

    A file that does not describe its network is compared only with the network that is trained, since
    comparing it with all others takes several seconds.
    """
    if config.init_ckpt is None:
        return {}
    checkpoint, fields = open_checkpoint(config.init_ckpt, "init_ckpt"), {"model", "strategy", "scale"}
    if checkpoint.record is not None:
        try:
            stored = stored_network(checkpoint.record, str(checkpoint.path), config.allow)
        except ConfigError:  # a class that must not be built, although its weights can be used
            return {"started_from": None}
        return {"started_from": stored.model_dump(include=fields)}
    fitting, named = fitting_scales(config, checkpoint), named_scale(checkpoint.path)
    if not fitting:
        return {"started_from": None}
    scale = named.scale if named is not None and named.scale in fitting else None
    scale = fitting[0] if len(fitting) == 1 else scale
    return {"started_from": config.model_dump(include=fields) | {"scale": scale}}


def optimizer_factory(config: TrainConfig) -> Callable[..., torch.optim.Optimizer]:
    """Builds the optimizer; Adam is fused on a GPU, where fp16 otherwise waits for an overflow check."""
    build: Callable[..., torch.optim.Optimizer] = targets.build("optimizer", config.optimizer, config.allow)
    fusible = config.optimizer["_target_"] in ("torch.optim.Adam", "torch.optim.AdamW")
    # Lightning cannot clip gradients that the fused kernel unscales.
    clipped = config.trainer.gradient_clip_val is not None
    if not fusible or clipped or {"fused", "foreach"} & set(config.optimizer) or not on_gpu(config):
        return build
    return functools.partial(build, fused=True)


def check_fit(module: SRModule, dataset: TrainingSet) -> None:
    """Refuse at the start what would otherwise fail later or have no effect.

    Raises:
        ConfigError: The network does not fit the patches or the protocol, or does not return an image of the
            right size; or the loss returns no number.
    """
    network = module.network
    smallest = min_size_of(network)
    if dataset.lr_patch_size < smallest:
        raise ConfigError(
            f"dataset.lr_patch_size: {type(network).__name__} needs at least {smallest}, "
            f"got {dataset.lr_patch_size}; use larger patches"
        )
    module.protocol.check_network(colour_of(network))
    _try(module, dataset.lr_patch_size)


def _try(module: SRModule, lr_patch_size: int) -> None:
    """Upscale one black patch and compute its loss, before hours are spent on the data or on training."""
    network, loss, side = module.network, module.loss, module.scale * lr_patch_size
    lr = torch.zeros(1, num_image_ch(network), lr_patch_size, lr_patch_size)
    mode = network.training
    try:
        with torch.random.fork_rng(devices=[]):
            sr = network.eval()(lr)
            check_output(network, sr, lr, (*lr.shape[:2], side, side))
            value = loss(sr, torch.zeros_like(sr)) if loss is not None else None
    except ConfigError:
        raise
    except Exception as error:
        given = f"{type(network).__name__}, and its result and an HR batch to {type(loss).__name__}"
        error.add_note(f"sr_lab gave an LR batch of {tuple(lr.shape)} to {given}")
        raise
    finally:
        network.train(mode)
    if loss is not None and not (isinstance(value, Tensor) and value.ndim == 0):
        kind = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ConfigError(
            f"loss: {type(loss).__name__} returns {kind}; it must return a tensor with one number, so write "
            "return error.mean()"
        )


def layout_and_compilation(
    config: TrainConfig, network: nn.Module, lr_patch_size: int, say: Callable[[str], None]
) -> tuple[Setting, Choice | None]:
    """Memory layout and compilation, either as configured or the fastest on this device.

    Raises:
        ConfigError: ``trainer.autotune`` is set for several machines.
    """
    options = config.trainer
    missing = (
        why_no_compiler(options.accelerator, options.devices) if options.compile or options.autotune else None
    )
    if options.compile and missing is not None:
        say(f"trainer.compile: not compiled, since {missing}")
    if not options.autotune:
        return Setting(options.channels_last, options.compile and missing is None), None
    arguments, found = options.arguments(), distributed.launched()
    machines = found.machines if found is not None else arguments.get("num_nodes", 1)
    if machines != 1:
        raise ConfigError(
            f"trainer.autotune: measures on one machine, got {machines}, which could choose differently; "
            "leave autotune out, and set what it prints when it runs on one of them: "
            "trainer.channels_last=true, trainer.compile=true"
        )
    compiled = missing is None and (options.compile or on_gpu(config))
    channels = num_image_ch(network)
    choice = choose(
        network,
        settings(compile=compiled),
        lr_shape=(batch_of_a_device(config), channels, lr_patch_size, lr_patch_size),
        scale=config.scale,
        device=device(config),  # of the first process to arrive; other processes here wait for the result
        autocast={"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision(config)),
        tf32=options.float32_matmul_precision == "high",
        benchmark=arguments.get("benchmark") is True and arguments.get("deterministic") is not True,
        known_as=config.model_dump(include={"model", "upsampler", "strategy", "scale"}),
        cache_dir=Path(config.paths.cache_dir).expanduser(),
    )
    untried = "" if compiled or missing else "; trainer.compile=true tries compiling too (minutes on a CPU)"
    overruled = options.channels_last and not choice.setting.channels_last
    say(f"{choice}{untried}{'; this overrides trainer.channels_last=true' if overruled else ''}")
    return choice.setting, choice


def batch_of_a_device(config: TrainConfig) -> int:
    """Images in the batch of one device."""
    devices = config.trainer.devices
    nodes = config.trainer.arguments().get("num_nodes", 1)
    if (found := distributed.launched()) is not None:
        _, devices, nodes = found
    if isinstance(devices, list):
        count = len(devices)
    elif isinstance(devices, int) and devices > 0:
        count = devices
    else:  # all devices
        count = torch.cuda.device_count() if on_gpu(config) else 1
    assert isinstance(nodes, int)
    return max(1, config.batch_size // (max(1, count) * nodes * config.trainer.accumulate_grad_batches))


def on_gpu(config: TrainConfig) -> bool:
    """Whether the training run uses a GPU."""
    return has_gpu(config.trainer.accelerator)


def device(config: TrainConfig) -> torch.device:
    """The device of this process."""
    return device_of(config.trainer.accelerator, config.trainer.devices)


def precision(config: TrainConfig) -> str:
    """Lightning's name for the precision."""
    devices = config.trainer.devices
    return resolve_precision(config.trainer.precision, config.trainer.accelerator, devices)


def syncs_batch_norm(config: TrainConfig) -> bool:
    """Whether batch norm sees the batches of all devices."""
    return bool(config.trainer.arguments().get("sync_batchnorm")) and on_gpu(config)


class TimedDataModule(SRDataModule):
    """The data of a training run whose `Record` reports how long it waits for batches."""

    def train_dataloader(self) -> TimedLoader[PatchBatch]:  # type: ignore[override]
        """The training stream."""
        assert self.trainer is not None
        return TimedLoader(super().train_dataloader(), callback_of(self.trainer, Record).speed)


def callback_of(trainer: Trainer, kind: type[_Callback]) -> _Callback:
    """The first callback of the given class."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, kind))


def record_and_progress(
    folder: RunFolder, *, batch_size: int, row_interval: int, say: Callable[[str], None]
) -> tuple[Record, TrainingProgress]:
    """Callbacks that record and show a training run."""
    speed = Speed(batch_size)
    return Record(folder.record, speed, interval=row_interval, say=say), TrainingProgress(speed)


def _own_callbacks(config: TrainConfig, folder: Path) -> list[Callback]:
    """The callbacks of the configuration.

    Raises:
        ConfigError: A callback does not fit the training; see `allowed.INSTEAD`.
    """
    made = {
        name: targets.build("callback", below(folder, node), config.allow)
        for name, node in config.callbacks.items()
    }
    for name, callback in made.items():
        targets.refuse_callback(f"callbacks.{name}", callback)
    return list(made.values())


def trainer(
    config: TrainConfig,
    folder: RunFolder,
    dataset: TrainingSet,
    loggers: list[Logger],
    signals: Signals,
    say: Callable[[str], None],
    *,
    alone: bool,
) -> Trainer:
    """The Trainer with its callbacks.

    Args:
        config: The configuration.
        folder: The run's folder.
        dataset: The training patches, used to save a batch that gives a NaN.
        loggers: The dashboards.
        signals: Listens for signals.
        say: Prints a line for the user.
        alone: Whether starting other processes is forbidden (`distributed.trainer_arguments`).
    """
    own = _own_callbacks(config, folder.path)
    is_shown = config.trainer.arguments().get("enable_progress_bar") is not False
    kept = [Path(c.dirpath) for c in own if isinstance(c, ModelCheckpoint) and c.dirpath is not None]
    callbacks = _callbacks(config, folder, dataset, own, signals, say, is_shown=is_shown)
    arguments = distributed.trainer_arguments(
        config.trainer.arguments(), timeout=config.trainer.timeout, alone=alone
    )
    arguments["sync_batchnorm"] = syncs_batch_norm(config)
    if arguments.get("deterministic") is True:  # cuDNN would choose among deterministic algorithms by time
        arguments["benchmark"] = False
    described = {name: arguments.pop(name) for name in ("_target_", "profiler") if name in arguments}
    ours = {
        "precision": precision(config),
        "max_steps": config.steps,
        "max_epochs": -1,
        "val_check_interval": config.validation.interval * config.trainer.accumulate_grad_batches,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "callbacks": callbacks,
        "logger": loggers,
        "plugins": [DurableCheckpointIO(folder.earlier, [folder.path, *kept])],
        "default_root_dir": folder.path,
        "enable_progress_bar": is_shown,
        "enable_model_summary": False,
    }
    made: Trainer = targets.build(
        "trainer", below(folder.path, described), config.allow, **{**arguments, **ours}
    )
    return made


def _callbacks(
    config: TrainConfig,
    folder: RunFolder,
    dataset: TrainingSet,
    own: list[Callback],
    signals: Signals,
    say: Callable[[str], None],
    *,
    is_shown: bool,
) -> list[Callback]:
    """Our callbacks in the order in which they run, with the user's ``own`` between them."""
    interval = max(1, min(50, config.steps // 20))  # steps between two rows of the record
    repeat = None if config.overfit_batches is None else config.overfit_batches * config.batch_size
    per_batch = config.batch_size // config.trainer.accumulate_grad_batches
    record, progress = record_and_progress(folder, batch_size=per_batch, row_interval=interval, say=say)
    return [
        record,
        *([progress] if is_shown else []),
        *([RowInSummary(config)] if config.logger else []),
        ExampleImages(folder.images, keep=config.examples),
        Ending(),
        *own,
        *([WeightAverage(config.ema_decay)] if config.ema_decay is not None else []),
        NanPolicy(
            config.nan_policy,
            folder.path / "nan",
            lambda samples: dataset.__getitems__(repeated(samples, repeat)),
            seed=dataset.seed,
            batch_size=config.batch_size,
            interval=interval,
            say=say,
        ),
        Checkpoints(folder.checkpoints, say),
        RandomState(),
        SaveLast(folder.checkpoints / LAST, signals),
    ]
