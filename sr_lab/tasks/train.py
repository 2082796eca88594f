"""``task=train``: train, then test the best checkpoint on the benchmark."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import lightning

from sr_lab.checkpoints.reading import Checkpoint
from sr_lab.checkpoints.weights import load_weights
from sr_lab.config.compose import to_yaml
from sr_lab.config.identity import run_identity
from sr_lab.config.identity_record import code_note, record
from sr_lab.config.schema import TrainConfig
from sr_lab.datasets.benchmark import BenchmarkSet, MeasuredSet
from sr_lab.datasets.pairs import HeldOutPairs, PairDataset, TrainingSet
from sr_lab.datasets.patches import RandomDegradation
from sr_lab.errors import ConfigError
from sr_lab.protocol import Protocol
from sr_lab.reporting.experiment import print_runs
from sr_lab.reporting.runs import read_run
from sr_lab.run_folder import RunFolder, whole_rows
from sr_lab.runs import measurement, trained_on
from sr_lab.runs.provenance import provenance, similar_unfinished
from sr_lab.system import distributed, faults
from sr_lab.system.devices import (
    check_gpu,
    check_precision,
    float32_matmul_precision,
    local_rank,
    rank,
    why_half,
    why_not_deterministic,
)
from sr_lab.system.interrupts import Ended
from sr_lab.system.signals import Signals, is_started_again, job
from sr_lab.tasks import common
from sr_lab.training import build
from sr_lab.training.autotune import Choice, Setting
from sr_lab.training.checkpointing import BEST, Checkpoints, newest, to_test
from sr_lab.training.data_module import SRDataModule, share_of_a_rank
from sr_lab.training.examples import check_names, not_kept
from sr_lab.training.lit_module import ImageResult, SRModule, batch_norms
from sr_lab.training.loggers import build_loggers, close_wandb
from sr_lab.training.nan_policy import NanPolicy
from sr_lab.training.resume import check_resume


def run(config: TrainConfig, folder: Path, overrides: Sequence[str]) -> None:
    """Train, or report that the run is already finished.

    Args:
        config: Validated configuration.
        folder: The run's folder.
        overrides: Overrides of the command line.

    Raises:
        ConfigError: A setting of a sweep is given for a single run.
    """
    common.refuse_alone(("sweep",), overrides)
    run_folder, known_by = RunFolder.at(folder), run_identity(config)
    if not common.in_multirun() and (note := code_note(known_by, run_folder)):
        _say(note)
    from_scratch = config.resume == "never" and not (is_started_again() and run_folder.started_over_by(job()))
    if run_folder.is_finished() and not from_scratch:
        if rank() == 0:
            _show_finished(config, run_folder, overrides)
        return
    if run_folder.metrics.is_file() and not from_scratch:
        _say(f"{run_folder.metrics}: cannot be read; measuring again")
    signals = Signals()
    if rank() != 0:
        with signals.heard():
            _train(config, run_folder, signals, from_scratch=from_scratch)
        return
    with run_folder.attempt(), signals.heard():
        done_meanwhile = (
            run_folder.is_finished() and not from_scratch
        )  # by another process, before this one locked it
        if not done_meanwhile:
            _train(config, run_folder, signals, from_scratch=from_scratch)
    if done_meanwhile:
        _show_finished(config, run_folder, overrides)
    else:
        _show(config, run_folder)


def _show_finished(config: TrainConfig, run_folder: RunFolder, overrides: Sequence[str]) -> None:
    missing = measurement.not_measured(config, run_folder, overrides)
    others = trained_on.changed_since(config, [run_folder])
    hint = "" if missing or others else " (resume=never trains it again)"
    common.console.print(f"already finished: {run_folder.path}{hint}")
    for words in others:
        _say(f"dataset: {words}; {trained_on.REMEDY}")
    _show(config, run_folder)
    if missing:
        _say(missing)
    if names := not_kept(run_folder.images, config.examples):
        _say(
            f"examples: the run has no pictures of {', '.join(names)}; run task=evaluate "
            f"'ckpt={run_folder.path}' 'examples=[{','.join(names)}]' "
            f"'benchmark.sets=[{','.join(config.benchmark.sets)}]'"
        )


def _show(config: TrainConfig, folder: RunFolder) -> None:
    if not common.in_multirun():
        print_runs([read_run(folder.path)], columns=config.columns)
        common.console.print(f"run folder: {common.shown(folder.path)}")


@dataclass(frozen=True)
class _Parts:
    """The parts of a training run, built and checked before its first step."""

    protocol: Protocol
    test_sets: list[BenchmarkSet]
    dataset: TrainingSet
    module: SRModule
    data: SRDataModule
    setting: Setting
    choice: Choice | None
    started_from: dict[str, object]


def _train(config: TrainConfig, folder: RunFolder, signals: Signals, *, from_scratch: bool) -> None:
    started = time.perf_counter()
    last = None if from_scratch else newest(folder.checkpoints, _say)
    if last is None and not from_scratch and (rows := whole_rows(folder.record)):
        _say(
            f"resume: there is no checkpoint for the {rows[-1]['step']} steps in {folder.record}; "
            "starts at step 0"
        )
    check_gpu(config.trainer.accelerator, config.trainer.devices)
    check_precision(config.trainer.precision, config.trainer.accelerator)
    float32_matmul_precision(config.trainer.float32_matmul_precision)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    parts = _parts(config, folder, resumed=last is not None, from_scratch=from_scratch)
    try:
        trainer = _trainer(config, folder, parts, signals, last)
        if rank() == 0:  # everything that can be wrong has been checked
            with faults.explained():
                folder.metrics.unlink(missing_ok=True)  # if the run fails, earlier results must not stay
                if from_scratch:
                    folder.start_over(job())
                earlier_code = record(folder, run_identity(config), resumed=last is not None)
                folder.write_config(to_yaml(config))
        results, tested = _fit_and_test(trainer, folder, parts, last)
        skipped = build.callback_of(trainer, NanPolicy).skipped if config.nan_policy == "skip" else None
        _check_numbers(results, skipped, trainer.global_step)
        if rank() == 0:
            values = (
                provenance(config, folder.path)
                | ({"earlier_code": earlier_code} if earlier_code else {})
                | parts.started_from
                | _how(config, trainer, parts)
                | _degraded(parts.dataset)
                | _lost_best(folder, trainer, tested.path)
                | ({"skipped_steps": skipped} if skipped is not None else {})
                | {"wall_time_s": round(time.perf_counter() - started, 1)}
                | common.cost(parts.module.network, config.scale)
                | common.measured(results, parts.protocol, config, parts.test_sets)
            )
            close_wandb(values)
            folder.write_metrics(values)
    except Ended:
        raise
    except SystemExit:  # Lightning turns Ctrl-C into this
        raise KeyboardInterrupt from None
    finally:
        close_wandb()


def _parts(config: TrainConfig, folder: RunFolder, *, resumed: bool, from_scratch: bool) -> _Parts:
    """Build network and data, so that anything missing is reported before the training."""
    protocol = measurement.protocol_of(config)
    test_sets = [measurement.benchmark_set(config, name, protocol) for name in config.benchmark.sets]
    check_names(config.examples, test_sets)
    dataset = trained_on.training_data(config)
    val_sets = _validation_sets(config, dataset, protocol)
    if dataset.val_files and (note := _fewer_held_out(config.validation.count, len(dataset.val_files))):
        _say(note)
    module = build.module(config, protocol, val_sets, test_sets, _say)
    build.check_fit(module, dataset)
    _say_budget(config)
    if config.trainer.precision == "auto" and (half := build.precision(config)) != "32-true":
        _say(why_half(half, build.device(config)))
    if isinstance(dataset, PairDataset):
        _say(dataset.note())
    if local_rank() == 0:  # other processes wait for this before the first step
        dataset.prepare()
    if rank() == 0:
        with faults.explained():
            changed = trained_on.note_images(config, folder, dataset, resumed=resumed)
        similar = None
        if not (resumed or from_scratch or common.in_multirun()):
            similar = similar_unfinished(config, folder)
        for line in filter(None, (changed, similar)):
            _say(line)
    setting, choice = build.layout_and_compilation(config, module.network, dataset.lr_patch_size, _say)
    setting.apply(module.network)
    data = build.TimedDataModule(
        train=dataset,
        val=val_sets,
        test=test_sets,
        batch_size=config.batch_size,
        accumulate=config.trainer.accumulate_grad_batches,
        num_workers=config.num_workers,
        timeout=config.trainer.timeout,
        overfit_batches=config.overfit_batches,
    )
    started_from = build.started_from(config) if rank() == 0 else {}
    return _Parts(protocol, test_sets, dataset, module, data, setting, choice, started_from)


def _fewer_held_out(wanted: int, held_out: int) -> str:
    """A line if the dataset holds out fewer images than ``validation.count`` asks for."""
    if held_out >= wanted:
        return ""
    images = "1 image" if held_out == 1 else f"{held_out} images"
    return f"validation: on {images}, all that the dataset holds out (validation.count={wanted})"


def _validation_sets(config: TrainConfig, dataset: TrainingSet, protocol: Protocol) -> list[MeasuredSet]:
    """The dataset's held-out images, and the benchmark sets named in ``validation.sets``.

    Held-out images have given LR images if the training images do.
    """
    named = [measurement.benchmark_set(config, name, protocol) for name in config.validation.sets]
    if isinstance(dataset, PairDataset):
        return [HeldOutPairs(dataset, config.validation.count, protocol.crop_border(config.scale)), *named]
    makes_lr = protocol if protocol.lr_source != "given" else replace(protocol, lr_source="uint8")
    held_out = BenchmarkSet(
        name="held_out",
        files=dataset.val_files,
        lr_files=dataset.val_lr_files,
        limit=config.validation.count,
        scale=config.scale,
        protocol=makes_lr,
    )
    return [held_out, *named]


def _trainer(
    config: TrainConfig, folder: RunFolder, parts: _Parts, signals: Signals, last: Path | None
) -> lightning.Trainer:
    """Build the Trainer; check what depends on the number of processes, and the checkpoint to resume from."""
    loggers = build_loggers(config, folder)
    with faults.explained():
        trainer = build.trainer(
            config, folder, parts.dataset, loggers, signals, _say, alone=common.in_launcher()
        )
    share_of_a_rank(config.batch_size, world=trainer.world_size, accumulate=parts.data.accumulate)
    if _is_per_process(config, trainer, parts.module):
        _say("batch norm: statistics are per process, since they can be shared only on GPUs")
    if last is not None:
        check_resume(last, trainer, parts.module)
        _say(f"resumes from {last}")
    return trainer


def _fit_and_test(
    trainer: lightning.Trainer, folder: RunFolder, parts: _Parts, last: Path | None
) -> tuple[list[ImageResult], Checkpoint]:
    """Train to the last step, then test the best checkpoint; returns the results of all processes."""
    with faults.explained(), distributed.together(trainer):
        trainer.fit(parts.module, datamodule=parts.data, ckpt_path=last, weights_only=True)
        tested = to_test(folder.checkpoints)
        # Not through the Trainer's ckpt_path: the averaging callback would restore the raw weights.
        load_weights(parts.module.network, tested)
        trainer.test(parts.module, datamodule=parts.data, verbose=False)
        return common.gather(parts.module.results), tested


def _how(config: TrainConfig, trainer: lightning.Trainer, parts: _Parts) -> dict[str, object]:
    """For ``metrics.json``: how the network was trained, and in which form."""
    steps, world = trainer.global_step, trainer.world_size
    arguments = config.trainer.arguments()
    because = why_not_deterministic(
        config.trainer.accelerator,
        deterministic=arguments.get("deterministic"),
        benchmark=arguments.get("benchmark"),
        compiled=parts.setting.compile,
        autotuned=config.trainer.autotune,
        world=world,
    )
    return (
        {"budget": config.budget.name, "steps": steps}
        | ({"planned_steps": config.steps} if steps < config.steps else {})
        | {"precision": build.precision(config)}
        | asdict(parts.setting)
        | ({"autotune": parts.choice.ratios} if parts.choice else {})
        | ({"processes": world} if world > 1 else {})
        | ({"batch_norm": "per process"} if _is_per_process(config, trainer, parts.module) else {})
        | {"deterministic": {"value": not because, "because": because}}
        | ({"tiled": parts.module.tiled} if parts.module.tiled else {})
    )


def _is_per_process(config: TrainConfig, trainer: lightning.Trainer, module: SRModule) -> bool:
    """Whether each process has its own batch norm statistics, from its part of the batch."""
    several = trainer.world_size > 1 and not build.syncs_batch_norm(config)
    return several and bool(batch_norms(module.network))


def _lost_best(folder: RunFolder, trainer: lightning.Trainer, tested: Path) -> dict[str, str]:
    """For ``metrics.json``: which checkpoint was tested if the best one is missing or damaged."""
    score = build.callback_of(trainer, Checkpoints).best_model_score
    reached = max(folder.validations().values(), default=-math.inf)
    if tested.name == BEST and (score is None or reached <= float(score)):
        return {}
    why = f"{tested.name}; the checkpoint with the best validation PSNR ({reached:.2f} dB) is lost"
    _say(f"tested: {why}")
    return {"tested": why}


def _degraded(dataset: TrainingSet) -> dict[str, str]:
    """For the lines above a table: the LR images of the training, unless they are made as in the protocol."""
    if isinstance(dataset, PairDataset):
        return {"degradation_says": f"pairs of {dataset.name}, also for validation; tested with the protocol"}
    if dataset.lr_files is not None:
        return {"degradation_says": "given LR images, also for validation; tested with the protocol"}
    if not isinstance(dataset.degradation, RandomDegradation):
        return {}
    return {"degradation_says": f"{dataset.degradation.describe()}; validated and tested with the protocol"}


def _check_numbers(results: Sequence[ImageResult], skipped: int | None, steps: int) -> None:
    """Refuse a result that is NaN.

    Raises:
        ConfigError: PSNR or SSIM of an image is NaN.
    """
    nan = next((result for result in results if math.isnan(result.psnr_y) or math.isnan(result.ssim_y)), None)
    if nan is None:
        return
    left_out = f"; {skipped} of {steps} steps were skipped (nan_policy)" if skipped else ""
    raise ConfigError(
        f"training: {nan.image} of {nan.set_name} has PSNR {nan.psnr_y}: the weights diverged{left_out}; "
        "lower learning_rate, or set trainer.gradient_clip_val"
    )


def _say(line: str) -> None:
    if rank() == 0:
        common.console.print(line, markup=False)


def _say_budget(config: TrainConfig) -> None:
    """Print one line before the work begins, so that nobody mistakes a short run for the paper's."""
    used = {
        "steps": config.steps,
        "batch_size": config.batch_size,
        "lr_patch_size": config.dataset.get("lr_patch_size"),
        "validation_interval": config.validation.interval,
        "validation_count": config.validation.count,
    }
    name, _, chosen = config.budget.name.partition(" ")
    line = f"{config.run_name}: {config.steps} steps, batch {config.batch_size}, budget {name}"
    if chosen:
        line += f", chosen for a {'GPU' if build.on_gpu(config) else 'CPU'}"
    if config.recipe:
        changes = [
            f"{key.replace('_', ' ').replace('lr', 'LR')} {recipe:,} -> {used[key]}"
            for key, recipe in config.recipe.items()
            if key in used
        ]
        line += f" ({', '.join(changes)}); budget=paper keeps the recipe"
    _say(line)
