"""Suggests what the user meant by a setting or a class that does not exist.

The names that other frameworks and scripts give to our settings are known here (BasicSR, traiNNer-redux,
lightning-hydra-template).
"""

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterable, Sequence

from sr_lab.config.allowed import SLOTS
from sr_lab.config.schema import TrainConfig
from sr_lab.errors import did_you_mean
from sr_lab.files import conf_dir

_THEIRS = {
    "model": "arch architecture net network network_g model_name",
    "upsampler": "upsample tail",
    "schedule": "scheduler lr_scheduler lr_schedule",
    "dataset": "data datamodule datasets train_set",
    "benchmark": "test_set testset test_sets benchmarks",
    "loss": "criterion loss_fn pixel_opt",
    "optimizer": "optim optim_g opt",
    "strategy": "plugin",
    "scale": "upscale upscale_factor sf",
    "seed": "manual_seed random_seed",
    "learning_rate": "lr base_lr initial_lr",
    "steps": "epochs max_epochs num_epochs n_epochs max_steps total_iter iters iterations niter num_steps",
    "batch_size": "bs batch batchsize batch_size_per_gpu train_batch_size",
    "num_workers": "workers num_worker num_worker_per_gpu n_workers",
    "ema_decay": "ema",
    "ckpt": "checkpoint ckpt_path weights pretrained pretrain pretrain_network_g pretrained_path resume_from",
    "paths.data_dir": "data_dir data_root dataroot root",
    "paths.output_dir": "output_dir save_dir out_dir log_dir",
    "dataset.hr_dir": "dataroot_gt gt_dir train_dir",
    "dataset.lr_dir": "dataroot_lq lq_dir",
    "dataset.lr_patch_size": "patch_size patch lq_size crop_size gt_size",
    "experiment_name": "exp_name",
    "run_name": "name",
    "model.num_feat": "n_feats nf feats channels",
    "model.num_block": "n_blocks num_blocks nb",
    "optimizer.weight_decay": "wd weight_decay",
    "trainer.devices": "gpus gpu num_gpu num_gpus n_gpus gpu_ids devices",
    "trainer.gradient_clip_val": "clip grad_clip clip_grad gradient_clip",
    "trainer.accelerator": "device accelerator",
    "trainer.precision": "amp fp16 bf16 use_amp",
    "trainer.accumulate_grad_batches": "accumulate accum_iter gradient_accumulation_steps",
    "validation.interval": "val_freq val_interval val_check_interval check_val_every_n_epoch",
    "logger": "wandb tensorboard",
    "logger.wandb.project": "wandb_project project",
    "logger.wandb.tags": "tags",
    "budget=smoke": "fast_dev_run",
    "debug=limit": "limit_train_batches limit_val_batches limit_test_batches",
}
_OURS = {theirs: ours for ours, names in _THEIRS.items() for theirs in names.split()}


def ours(key: str) -> str | None:
    """Our name of a setting that other frameworks call ``key`` (``trainer.max_epochs`` -> ``steps``).

    Returns:
        ``None`` if we have no name for it, or if our name is ``key`` itself.
    """
    top, _, rest = key.replace("-", "_").partition(".")
    last = rest.rpartition(".")[2] or top
    found = _OURS.get(last)
    if found is None and rest:
        found = f"{_OURS[top]}.{rest}" if top in _OURS else last if last in TrainConfig.model_fields else None
    return None if found == key else found


def instead(place: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown setting: what the user probably meant; empty if unclear."""
    names, key = set(known), place.rpartition(".")[2]
    if (known_as := ours(place)) is not None:
        last = known_as.rpartition(".")[2]
        return f"; did you mean '{last}'?" if last in names else f"; write {known_as}=... instead"
    if near := did_you_mean(key, names, cutoff=0.7):
        return near
    if names and (options := options_with(place)):
        return f"; it is a setting of {', '.join(options)}"
    return did_you_mean(key, names)


def options(group: str) -> list[str]:
    """The options of a group in ``conf/``, including those in its sub-folders."""
    folder = conf_dir() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def options_with(place: str) -> list[str]:
    """``group=option`` for each option of the group that has a setting (``dataset.hr_dir``)."""
    group, _, key = place.partition(".")
    setting = re.compile(rf"^{re.escape(key)}:", re.MULTILINE)
    found = sorted((conf_dir() / group).glob("*.yaml")) if key else []
    return [f"{group}={file.stem}" for file in found if setting.search(file.read_text(encoding="utf-8"))]


def not_found(path: str, error: Exception) -> str:
    """Why a class cannot be imported, and what to do."""
    module, _, name = path.rpartition(".")
    if not isinstance(error, (ImportError, AttributeError)):
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, SyntaxError) else f" ({frame.filename}, line {frame.lineno})"
        return f"{type(error).__name__}: {error}{where}; correct it"
    package = module.partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        return f"{error}; start in the folder that contains {package}, or install it"
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return f"{error}; correct the name of the module"
    is_package = hasattr(sys.modules.get(module), "__path__")
    if is_package and importlib.util.find_spec(path) is not None:
        return f"it is a module; add the name of a class in it: {path}.<class>"
    if isinstance(error, AttributeError) and module in sys.modules:
        defined = [each for each, value in vars(sys.modules[module]).items() if inspect.isclass(value)]
        return f"{error}; correct the name of the class{did_you_mean(name, defined)}"
    return f"{error}; correct {module}, or install the packages that it needs"


def to_trust(path: object, packages: Sequence[str]) -> str:
    """The end of an error message: how to allow a class of a package that is not trusted yet, or empty."""
    package, _, name = str(path).partition(".")
    libraries = {each.partition(".")[0] for slot in SLOTS.values() for each in (slot.base, *slot.classes)}
    if not name or package in (*libraries, *packages, *sys.stdlib_module_names):
        return ""
    return f"; if {package} is your own package, add allow=[{package}]"
