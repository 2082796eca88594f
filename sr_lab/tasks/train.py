"""``task=train``: fit, then test the best checkpoint on the benchmark."""

import functools
import math
import time
import typing
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.loggers import Logger
from torch import nn

from sr_lab.checkpoints.opening import build_network
from sr_lab.checkpoints.reading import open_checkpoint
from sr_lab.checkpoints.weights import load_weights, take_over
from sr_lab.config import targets
from sr_lab.config.compose import to_yaml
from sr_lab.config.identity import training_set
from sr_lab.config.schema import TrainConfig
from sr_lab.datasets.benchmark import BenchmarkSet
from sr_lab.datasets.patches import PatchDataset, RandomDegradation
from sr_lab.errors import CheckpointError, ConfigError
from sr_lab.layers.network import colour_of, min_size_of, num_image_ch
from sr_lab.protocol import Protocol
from sr_lab.reporting.experiment import print_runs
from sr_lab.reporting.runs import read_run
from sr_lab.run_folder import RunFolder, whole_rows
from sr_lab.runs.provenance import note_images, provenance, similar_unfinished
from sr_lab.system import distributed, faults
from sr_lab.system.devices import (
    check_gpu,
    float32_matmul_precision,
    has_gpu,
    local_rank,
    rank,
    resolve_precision,
    why_fp16,
    why_no_compiler,
    why_not_deterministic,
)
from sr_lab.system.signals import Ended, SaveWhenAsked, Signals, is_started_again, job
from sr_lab.tasks import common
from sr_lab.training.autotune import Choice, Setting, choose, settings
from sr_lab.training.callbacks import (
    NoProfiler,
    StaysEnded,
    ValidateAtEnd,
    WeightAverage,
    watchers,
    without_idle_hooks,
)
from sr_lab.training.checkpointing import (
    BEST,
    LAST,
    Checkpoints,
    DurableCheckpointIO,
    RandomState,
    checkpoints,
    newest,
    to_test,
)
from sr_lab.training.data_module import SRDataModule, share_of_a_rank
from sr_lab.training.lit_module import ImageResult, SRModule, batch_norms
from sr_lab.training.loggers import RowInSummary, build_loggers, close_wandb
from sr_lab.training.nan_policy import NanPolicy
from sr_lab.training.resume import judge


def run(config: TrainConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Train, or say that it has been done.

    Args:
        config: Validated configuration.
        folder: The run's folder.
        overrides: Overrides of the command line, for the record.
    """
    run_folder = RunFolder(folder.resolve())
    anew = config.resume == "never" and not (is_started_again() and run_folder.started_over_by(job()))
    if run_folder.is_finished() and not anew:
        if rank() != 0:
            return
        missing = _not_measured(config, run_folder)
        again = "" if missing else " (resume=never trains it again)"
        common.console.print(f"finished already: {folder}{again}")
        _show(run_folder)
        if missing:
            _say(missing)
        return
    if run_folder.metrics.is_file() and not anew:
        _say(f"{run_folder.metrics}: cannot be read; measures again")
    signals = Signals()
    if rank() != 0:
        with signals.heard():
            _train(config, run_folder, signals, anew=anew)
        return
    with run_folder.attempt(), signals.heard():
        run_folder.write_config(to_yaml(config))
        _train(config, run_folder, signals, anew=anew)
    _show(run_folder)


def _show(folder: RunFolder) -> None:
    if not common.in_multirun():
        print_runs([read_run(folder.path)])
        inside = folder.path.is_relative_to(Path.cwd())
        common.console.print(f"run folder: {folder.path.relative_to(Path.cwd()) if inside else folder.path}")


def _not_measured(config: TrainConfig, folder: RunFolder) -> str:
    """What the benchmark asks for beside what a finished run has measured, and how to get it; or nothing."""
    run, benchmark = read_run(folder.path), config.benchmark
    other = run.values.get("protocol") != benchmark.protocol
    wanted = [name for name in benchmark.sets if other or name not in run.sets]
    if run.problem or not wanted:
        return ""
    sets = ",".join(wanted)
    return (
        f"benchmark: this run was not measured on {sets} by {benchmark.protocol}; to do so: task=evaluate "
        f"'ckpt={folder.path}' 'benchmark.sets=[{sets}]' benchmark.protocol={benchmark.protocol}"
    )


def _train(config: TrainConfig, folder: RunFolder, signals: Signals, *, anew: bool) -> None:
    started = time.perf_counter()
    last = None if anew else newest(folder.checkpoints, _say)
    if last is None and not anew and (rows := whole_rows(folder.record)):
        _say(f"resume: no checkpoint is left of the {rows[-1]['step']} steps in {folder.record}: begins at 0")
    check_gpu(config.trainer.accelerator)
    float32_matmul_precision(config.trainer.float32_matmul_precision)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    protocol = common.protocol_of(config)
    # Everything that can be missing is looked for before the first step.
    test_sets = [common.benchmark_set(config, name, protocol) for name in config.benchmark.sets]
    dataset: PatchDataset = training_set(config)
    val_sets = _validation_sets(config, dataset, protocol)
    module = _module(config, protocol, val_sets, test_sets)
    _check_fit(module.network, dataset, protocol)
    _say_budget(config)
    if config.trainer.precision == "auto" and _precision(config) == "16-mixed":
        common.console.print(why_fp16())
    if local_rank() == 0:  # the others wait for it where they meet
        dataset.prepare()
    if rank() == 0:
        _tell_of_others(config, folder, dataset, resumed=last is not None, anew=anew)
    setting, choice = _form(config, module.network, dataset.lr_patch_size)
    setting.apply(module.network)
    data = SRDataModule(
        train=dataset,
        val=val_sets,
        test=test_sets,
        batch_size=config.batch_size,
        accumulate=config.trainer.accumulate_grad_batches,
        num_workers=config.num_workers,
        timeout=config.trainer.timeout,
    )
    loggers = build_loggers(config, folder)
    try:
        watch = NanPolicy(
            config.nan_policy,
            folder.path / "nan",
            dataset.__getitems__,
            seed=dataset.seed,
            batch_size=config.batch_size,
            interval=_row_interval(config),
            say=_say,
        )
        with faults.told():
            trainer = _trainer(config, folder, loggers, watch, signals)
        share_of_a_rank(data.batch_size, world=trainer.world_size, accumulate=data.accumulate)
        if _is_per_process(config, trainer, module):
            common.console.print("batch norm: statistics are per process, since only GPUs can share them")
        if last is not None:
            _check_same(last, module)
            judge(last, trainer, module)
            _say(f"goes on from {last}")
        if rank() == 0:  # all that can be wrong has been looked for
            with faults.told():
                folder.metrics.unlink(missing_ok=True)  # one that fails must not leave the numbers before it
                if anew:
                    folder.start_over(job())
        with faults.told(), distributed.together(trainer):
            trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
            tested = to_test(folder.checkpoints)
            # Not through the Trainer's ckpt_path: the averaging callback would put the raw weights back.
            load_weights(module.network, tested)
            trainer.test(module, datamodule=data, verbose=False)
            results = common.gather(module.results)
        skipped = watch.skipped if config.nan_policy == "skip" else None
        _check_numbers(results, skipped, trainer.global_step)
        if rank() == 0:
            values = (
                provenance(config, folder.path)
                | _how(config, trainer, module, setting)
                | _degraded(dataset)
                | _lost(folder, trainer, tested.path)
                | ({"autotune": choice.ratios} if choice else {})
                | ({"skipped_steps": skipped} if skipped is not None else {})
                | {"wall_time_s": round(time.perf_counter() - started, 1)}
                | common.cost(module.network, config.scale)
                | common.measured(results, protocol, config.scale)
            )
            close_wandb(values)
            folder.write_metrics(values)
    except Ended:
        raise
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    finally:
        close_wandb()


def _tell_of_others(
    config: TrainConfig, folder: RunFolder, dataset: PatchDataset, *, resumed: bool, anew: bool
) -> None:
    """Say that the images have changed, or that a run which differs in little waits to be gone on with."""
    with faults.told():
        changed = note_images(config, folder, dataset.fingerprints(), resumed=resumed)
    beside = None
    if not (resumed or anew or common.in_multirun()):
        beside = similar_unfinished(config, folder)
    for line in filter(None, (changed, beside)):
        _say(line)


def _how(
    config: TrainConfig, trainer: lightning.Trainer, module: SRModule, setting: Setting
) -> dict[str, object]:
    """For the record: what was trained, and in which form."""
    steps, world = trainer.global_step, trainer.world_size
    return (
        {"budget": config.budget.name, "steps": steps}
        | ({"planned_steps": config.steps} if steps < config.steps else {})
        | {"precision": _precision(config)}
        | asdict(setting)
        | ({"processes": world} if world > 1 else {})
        | ({"batch_norm": "per process"} if _is_per_process(config, trainer, module) else {})
        | {"deterministic": _deterministic(config, setting, world)}
        | ({"tiled": module.tiled} if module.tiled else {})
    )


def _is_per_process(config: TrainConfig, trainer: lightning.Trainer, module: SRModule) -> bool:
    """Whether each process has statistics of its own part of the batch."""
    return trainer.world_size > 1 and bool(batch_norms(module.network)) and not _syncs(config)


def _lost(folder: RunFolder, trainer: lightning.Trainer, tested: Path) -> dict[str, str]:
    """That the figures are not of the best validation, whose checkpoint somebody has removed or damaged."""
    kept = next(each for each in trainer.checkpoint_callbacks if isinstance(each, Checkpoints))
    score = kept.best_model_score
    reached = max(folder.validations().values(), default=-math.inf)
    if tested.name == BEST and (score is None or reached <= float(score)):
        return {}
    why = f"{tested.name}; the checkpoint of the best validation ({reached:.2f} dB) is lost"
    _say(f"tested: {why}")
    return {"tested": why}


def _degraded(dataset: PatchDataset) -> dict[str, str]:
    """What a table's head says of a random degradation; bicubic LR images are the protocol's."""
    if not isinstance(dataset.degradation, RandomDegradation):
        return {}
    return {"degradation_says": f"{dataset.degradation.describe()}; validated and tested by the protocol"}


def _check_fit(network: nn.Module, dataset: PatchDataset, protocol: Protocol) -> None:
    """Refuse what would fail, or do nothing, only after the work has begun."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"model: {type(network).__name__} has nothing to train; take task=evaluate")
    smallest = min_size_of(network)
    if dataset.lr_patch_size < smallest:
        raise ConfigError(
            f"dataset.lr_patch_size: {type(network).__name__} needs at least {smallest}, "
            f"got {dataset.lr_patch_size}; enlarge it"
        )
    protocol.check_network(colour_of(network))


def _check_same(last: Path, module: SRModule) -> None:
    """Refuse to go on with what another network, or a newer version of this program, has saved.

    Raises:
        CheckpointError: It is that.
    """
    record = open_checkpoint(str(last), "resume").record
    try:
        if record is None or record.get("version") != module.record["version"]:
            what = "was saved by another version of sr_lab; update this one"
        elif any(record.get(key) != value for key, value in module.record.items()):
            what = "holds another network"
        else:
            return
    except RuntimeError:  # tensors in places of numbers are neither equal nor not
        what = "holds no network"
    raise CheckpointError(
        f"resume: '{last}' {what}, put the run's own checkpoint there, or begin anew with resume=never"
    )


def _check_numbers(results: Sequence[ImageResult], skipped: int | None, steps: int) -> None:
    """Refuse a result that is no number.

    Raises:
        ConfigError: An image came out as none.
    """
    nan = next((result for result in results if math.isnan(result.psnr_y) or math.isnan(result.ssim_y)), None)
    if nan is None:
        return
    left_out = f"; {skipped} of {steps} steps were skipped (nan_policy)" if skipped else ""
    raise ConfigError(
        f"training: the result is no number, {nan.image} of {nan.set_name} has PSNR {nan.psnr_y}: the "
        f"weights have diverged{left_out}; lower learning_rate, or set trainer.gradient_clip_val"
    )


def _precision(config: TrainConfig) -> str:
    return resolve_precision(config.trainer.precision, config.trainer.accelerator)


def _syncs(config: TrainConfig) -> bool:
    """Whether batch norm sees the batch of all devices."""
    return bool(config.trainer.arguments().get("sync_batchnorm")) and _on_gpu(config)


def _deterministic(config: TrainConfig, setting: Setting, world: int) -> dict[str, object]:
    """For the record: whether the same command gives the same bits, and what may differ."""
    arguments = config.trainer.arguments()
    because = why_not_deterministic(
        config.trainer.accelerator,
        deterministic=arguments.get("deterministic"),
        benchmark=arguments.get("benchmark"),
        compiled=setting.compile,
        autotuned=config.trainer.autotune,
        world=world,
    )
    return {"value": not because, "because": because}


def _say(line: str) -> None:
    if rank() == 0:
        common.console.print(line, markup=False)


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
    network = build_network(config)
    if config.init_ckpt is not None:
        left = take_over(network, open_checkpoint(config.init_ckpt, "init_ckpt"))
        names = f", left as they are: {', '.join(left)}" if left else ""
        common.console.print(f"weights from {config.init_ckpt}: {len(left)} do not fit{names}")
    return SRModule(
        network,
        scale=config.scale,
        protocol=protocol,
        val_sets={images.name: len(images) for images in val_sets},
        test_sets=[images.name for images in test_sets],
        loss=targets.build(config.loss),
        make_optimizer=_optimizer(config),
        make_scheduler=targets.build(config.schedule.scheduler),
        steps_per_unit=config.steps_per_epoch if config.schedule.interval == "epoch" else 1.0,
        record=config.model_dump(include={"model", "upsampler", "strategy", "scale"}) | {"version": 1},
    )


def _optimizer(config: TrainConfig) -> Callable[..., torch.optim.Optimizer]:
    """On a GPU Adam in one kernel: the only one that under fp16 does not ask the device for overflows."""
    build: Callable[..., torch.optim.Optimizer] = targets.build(config.optimizer)
    fusible = config.optimizer["_target_"] in ("torch.optim.Adam", "torch.optim.AdamW")
    clipped = config.trainer.gradient_clip_val is not None  # Lightning cannot clip what the kernel unscales
    if not fusible or clipped or {"fused", "foreach"} & set(config.optimizer) or not _on_gpu(config):
        return build
    return functools.partial(build, fused=True)


def _form(config: TrainConfig, network: nn.Module, lr_patch_size: int) -> tuple[Setting, Choice | None]:
    """Memory layout and compilation: those of the configuration, or the fastest on this device."""
    options = config.trainer
    missing = why_no_compiler(options.accelerator) if options.compile or options.autotune else None
    if options.compile and missing is not None:
        common.console.print(f"trainer.compile: goes without, since {missing}")
    if not options.autotune:
        return Setting(options.channels_last, options.compile and missing is None), None
    arguments, found = options.arguments(), distributed.launched()
    machines = found.machines if found is not None else arguments.get("num_nodes", 1)
    if machines != 1:
        raise ConfigError(
            f"trainer.autotune: measures on one machine, got {machines}, which may choose differently; leave "
            "it out, and set what it says on one of them: trainer.channels_last=true, trainer.compile=true"
        )
    compiled = missing is None and (options.compile or _on_gpu(config))
    # That of the process which measures: the others of this machine only read.
    devices = arguments.get("devices")
    first = devices[0] if isinstance(devices, list) else 0
    device = torch.device("cuda", first) if _on_gpu(config) else torch.device("cpu")
    choice = choose(
        network,
        settings(compile=compiled),
        lr_shape=(_batch_of_a_device(config), num_image_ch(network), lr_patch_size, lr_patch_size),
        scale=config.scale,
        device=device,
        autocast={"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(_precision(config)),
        tf32=options.float32_matmul_precision == "high",
        benchmark=arguments.get("benchmark") is True and arguments.get("deterministic") is not True,
        known_as=config.model_dump(include={"model", "upsampler", "strategy", "scale"}),
        cache_dir=Path(config.paths.cache_dir).expanduser(),
        wait=rank() != 0,
    )
    if rank() == 0:
        left_out = (
            "" if compiled or missing else "; compiling takes minutes on a CPU: trainer.compile=true tries it"
        )
        overruled = options.channels_last and not choice.setting.channels_last
        over = "; trainer.channels_last=true gives way to it" if overruled else ""
        common.console.print(f"{choice}{left_out}{over}")
    return choice.setting, choice


def _batch_of_a_device(config: TrainConfig) -> int:
    """Images that one device sees at once."""
    devices = config.trainer.arguments().get("devices", 1)
    nodes = config.trainer.arguments().get("num_nodes", 1)
    if (found := distributed.launched()) is not None:
        _, devices, nodes = found
    if isinstance(devices, list):
        count = len(devices)
    elif isinstance(devices, int) and devices > 0:
        count = devices
    else:  # all of them
        count = torch.cuda.device_count() if _on_gpu(config) else 1
    assert isinstance(nodes, int)
    return max(1, config.batch_size // (max(1, count) * nodes * config.trainer.accumulate_grad_batches))


def _on_gpu(config: TrainConfig) -> bool:
    return has_gpu(config.trainer.accelerator)


def _row_interval(config: TrainConfig) -> int:
    """Steps between two rows of the record."""
    return max(1, min(50, config.steps // 20))


def _own_callbacks(config: TrainConfig) -> list[lightning.Callback]:
    """Those of the configuration.

    Raises:
        ConfigError: One of them would do nothing to what is tested, and could not be gone on with.
    """
    made = {name: targets.build(typing.cast(targets.Node, node)) for name, node in config.callbacks.items()}
    for name, callback in made.items():
        if isinstance(callback, StochasticWeightAveraging):
            raise ConfigError(
                f"callbacks.{name}: what StochasticWeightAveraging averages is neither tested nor gone on "
                "with; take ema_decay=0.999"
            )
    return list(made.values())


def _trainer(
    config: TrainConfig, folder: RunFolder, loggers: list[Logger], watch: NanPolicy, signals: Signals
) -> lightning.Trainer:
    accumulate = config.trainer.accumulate_grad_batches
    callbacks: list[lightning.Callback] = [
        *watchers(
            folder,
            batch_size=config.batch_size // accumulate,
            row_interval=_row_interval(config),
        ),
        RowInSummary(config),
        ValidateAtEnd(),
        StaysEnded(),
        *_own_callbacks(config),
        *([WeightAverage(config.ema_decay)] if config.ema_decay is not None else []),
        watch,
        *checkpoints(folder.checkpoints, _say),
        RandomState(),
        SaveWhenAsked(folder.checkpoints / LAST, signals),
    ]
    arguments = distributed.arranged(
        config.trainer.arguments(), timeout=config.trainer.timeout, alone=common.in_launcher()
    )
    arguments["sync_batchnorm"] = _syncs(config)
    if arguments.get("deterministic") is True:  # cuDNN would choose among deterministic algorithms, by time
        arguments["benchmark"] = False
    profiler = {} if arguments.get("profiler") else {"profiler": NoProfiler()}
    trainer: lightning.Trainer = targets.build(
        arguments,
        precision=_precision(config),
        max_steps=config.steps,
        max_epochs=-1,
        val_check_interval=config.validation.interval * accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[without_idle_hooks(callback) for callback in callbacks],
        logger=loggers,
        plugins=[DurableCheckpointIO(folder.earlier)],
        default_root_dir=folder.path,
        enable_model_summary=False,
        **profiler,
    )
    return trainer
