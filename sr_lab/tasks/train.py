"""``task=train``: fit, then test the best checkpoint on the benchmark."""

import time
import typing
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch import nn

from sr_lab import targets
from sr_lab.callbacks import DurableCheckpointIO, ValidateAtEnd, watchers
from sr_lab.checkpoints import load_weights, open_checkpoint, take_over
from sr_lab.config import TrainConfig, to_yaml
from sr_lab.data_module import SRDataModule
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.datasets.patches import PatchDataset
from sr_lab.devices import check_gpu, has_gpu, rank, resolve_precision
from sr_lab.errors import ConfigError
from sr_lab.lit_module import SRModule
from sr_lab.loggers import RowInSummary, build_loggers, close_wandb
from sr_lab.protocol import Protocol
from sr_lab.reporting.runs import read_run
from sr_lab.reporting.table import print_table
from sr_lab.run_folder import RunFolder
from sr_lab.tasks import common


def run(config: TrainConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Train, or say that it has been done.

    Args:
        config: Validated configuration.
        folder: The run's folder.
        overrides: Overrides of the command line, for the record.
    """
    run_folder = RunFolder(folder.resolve())
    if run_folder.metrics.is_file() and config.resume == "auto":
        common.console.print(f"finished already: {folder} (resume=never trains it again)")
        _show(run_folder)
        return
    if rank() != 0:
        _train(config, run_folder)
        return
    with run_folder.attempt():
        run_folder.clear(results_only=config.resume == "auto")
        run_folder.write_config(to_yaml(config))
        _train(config, run_folder)
    _show(run_folder)


def _show(folder: RunFolder) -> None:
    if not common.in_multirun():
        print_table([read_run(folder.path)])
        inside = folder.path.is_relative_to(Path.cwd())
        common.console.print(f"run folder: {folder.path.relative_to(Path.cwd()) if inside else folder.path}")


def _train(config: TrainConfig, folder: RunFolder) -> None:
    started = time.perf_counter()
    check_gpu(config.trainer.accelerator)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    protocol = common.protocol_of(config)
    # Everything that can be missing is looked for before the first step.
    test_sets = [common.benchmark_set(config, name, protocol) for name in config.benchmark.sets]
    dataset: PatchDataset = targets.build(config.dataset)
    val_sets = _validation_sets(config, dataset, protocol)
    module = _module(config, protocol, val_sets, test_sets)
    _check_fit(module.network, dataset, protocol)
    if rank() == 0:
        _say_budget(config)
        dataset.prepare()
    data = SRDataModule(
        train=dataset,
        val=val_sets,
        test=test_sets,
        batch_size=config.batch_size,
        accumulate=config.trainer.accumulate_grad_batches,
        num_workers=config.num_workers,
    )
    loggers = build_loggers(config, folder)
    checkpoint = ModelCheckpoint(
        dirpath=folder.checkpoints,
        filename="best",
        monitor="val/psnr_y",
        mode="max",
        save_last=True,
        enable_version_counter=False,
    )
    try:
        trainer = _trainer(config, folder, loggers, checkpoint)
        last = folder.checkpoints / "last.ckpt"
        resumed = config.resume == "auto" and last.is_file()
        if resumed:
            common.console.print(f"goes on from {last}")
        trainer.fit(module, datamodule=data, ckpt_path=last if resumed else None, weights_only=True)
        # Not through the Trainer's ckpt_path: the averaging callback would put the raw weights back.
        load_weights(module.network, open_checkpoint(str(folder.checkpoints / "best.ckpt")))
        trainer.test(module, datamodule=data, verbose=False)
        results = common.gather(module.results)
        if rank() == 0:
            values = (
                common.provenance(config, folder.path)
                | {"budget": config.budget.name, "steps": config.steps, "precision": _precision(config)}
                | {"wall_time_s": round(time.perf_counter() - started, 1)}
                | common.cost(module.network, config.scale)
                | common.measured(results, protocol, config.scale)
            )
            close_wandb(values)
            folder.write_metrics(values)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        close_wandb()


def _check_fit(network: nn.Module, dataset: PatchDataset, protocol: Protocol) -> None:
    """Refuse what would fail, or do nothing, only after the work has begun."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"model: {type(network).__name__} has nothing to train; take task=evaluate")
    smallest = getattr(network, "min_size", 1)
    if dataset.lr_patch_size < smallest:
        raise ConfigError(
            f"dataset.lr_patch_size: {type(network).__name__} needs at least {smallest}, "
            f"got {dataset.lr_patch_size}; enlarge it"
        )
    protocol.check_network(getattr(network, "colour", "rgb"))


def _precision(config: TrainConfig) -> str:
    return resolve_precision(config.trainer.precision, config.trainer.accelerator)


def _say_budget(config: TrainConfig) -> None:
    """One line before the work begins, so that a short run cannot be taken for the paper's."""
    line = f"{config.run_name}: {config.steps} steps, batch {config.batch_size}, budget {config.budget.name}"
    if config.budget.max_steps is not None:
        line += "; the full recipe is budget=paper"
    common.console.print(line)


def _validation_sets(config: TrainConfig, dataset: PatchDataset, protocol: Protocol) -> list[BenchmarkSet]:
    """The dataset's held-out images, and the benchmark sets that ``validation.sets`` names."""
    held_out = BenchmarkSet(
        name="held_out",
        files=dataset.val_files,
        limit=config.validation.count,
        scale=config.scale,
        protocol=protocol,
    )
    named = [common.benchmark_set(config, name, protocol) for name in config.validation.sets]
    return [held_out, *named]


def _module(
    config: TrainConfig, protocol: Protocol, val_sets: list[BenchmarkSet], test_sets: list[BenchmarkSet]
) -> SRModule:
    network = common.build_network(config)
    if config.init_ckpt is not None:
        left = take_over(network, open_checkpoint(config.init_ckpt, "init_ckpt"))
        names = f", left as they are: {', '.join(left)}" if left else ""
        common.console.print(f"weights from {config.init_ckpt}: {len(left)} do not fit{names}")
    module = SRModule(
        network,
        scale=config.scale,
        protocol=protocol,
        val_sets=[images.name for images in val_sets],
        test_sets=[images.name for images in test_sets],
        loss=targets.build(config.loss),
        make_optimizer=targets.build(config.optimizer),
        make_scheduler=targets.build(config.schedule.scheduler),
        steps_per_unit=config.steps_per_epoch if config.schedule.interval == "epoch" else 1.0,
        record=config.model_dump(include={"model", "upsampler", "strategy", "scale"}) | {"version": 1},
    )
    if config.trainer.channels_last:
        module.to(memory_format=torch.channels_last)  # inputs follow the weights
    if config.trainer.compile:
        network.compile()  # in place: the state dict keeps its names
    return module


def _trainer(
    config: TrainConfig, folder: RunFolder, loggers: list[Logger], checkpoint: ModelCheckpoint
) -> lightning.Trainer:
    accumulate = config.trainer.accumulate_grad_batches
    callbacks: list[lightning.Callback] = [
        *watchers(
            folder,
            batch_size=config.batch_size // accumulate,
            row_interval=max(1, min(50, config.steps // 20)),
        ),
        RowInSummary(config),
        ValidateAtEnd(),
        *(targets.build(typing.cast(targets.Node, node)) for node in config.callbacks.values()),
        checkpoint,
    ]
    if config.ema_decay is not None:
        callbacks.append(EMAWeightAveraging(decay=config.ema_decay))
    arguments = config.trainer.arguments()
    if arguments.get("sync_batchnorm") and not has_gpu(config.trainer.accelerator):
        common.console.print("batch norm: statistics are per process, since only GPUs can share them")
        arguments["sync_batchnorm"] = False
    trainer: lightning.Trainer = targets.build(
        arguments,
        precision=_precision(config),
        max_steps=config.steps,
        max_epochs=-1,
        val_check_interval=config.validation.interval * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=loggers,
        plugins=[DurableCheckpointIO()],
        default_root_dir=folder.path,
        enable_model_summary=False,
    )
    return trainer
