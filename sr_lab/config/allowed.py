"""The classes that a configuration or a checkpoint may name, slot by slot; `targets` builds no others.

Our own classes are allowed by package, library classes one by one. We read the constructor of each library
class: its arguments cannot make it run code, start a process, open a file or use the network. Callbacks,
loggers and profilers write below the run folder (`untrusted.settled`).
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Slot:
    """What one slot of a configuration accepts.

    Args:
        place: The slot's key in the configuration; ``*`` stands for a name that the user chooses. Empty for a
            slot that exists only inside the arguments of other slots.
        base: Base class of our own classes, and of classes from packages that the user trusts.
        room: Our package whose classes it accepts.
        classes: Library classes that it accepts.
        nested: Names of slots; an argument may contain a description (a ``_target_``) that fits one of them.
        supplied: Arguments that our code passes; a configuration may not set them.
        stored: Whether a checkpoint may fill the slot.
        factory: Whether our code builds the object later, so that its description needs ``_partial_: true``.
        own_base: Base class of classes from packages that the user trusts; empty if it is ``base``.
    """

    place: str
    base: str
    room: str = ""
    classes: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()
    supplied: tuple[str, ...] = ()
    stored: bool = False
    factory: bool = False
    own_base: str = ""

    def __str__(self) -> str:
        rooms = (f"a class of {self.room}",) if self.room else ()
        own = (f"your own class that derives from {self.own_base or self.base}",) if self.base else ()
        return ", ".join((*rooms, *self.classes, *own))


def _named(package: str, names: str) -> tuple[str, ...]:
    return tuple(f"{package}.{name}" for name in names.split())


# For the user's own networks; none of our networks takes a layer as an argument.
_LAYERS = _named(
    "torch.nn",
    "BatchNorm2d Conv2d Dropout Dropout2d ELU GELU GroupNorm Hardsigmoid Hardswish Identity InstanceNorm2d "
    "LayerNorm LeakyReLU Mish PReLU ReLU ReLU6 SELU SiLU Sigmoid Softplus Tanh",
)

SLOTS = {
    "model": Slot("model", "torch.nn.Module", "sr_lab.models", nested=("upsampler", "layer"), stored=True),
    "upsampler": Slot(
        "upsampler.factory",
        "torch.nn.Module",
        "sr_lab.upsamplers",
        nested=("layer",),
        supplied=("num_feat", "num_out_ch", "scale"),
        factory=True,
        stored=True,
    ),
    # The only functions that may be named are called ``apply``, each in a module of this package.
    "strategy": Slot(
        "strategy.apply", "", "sr_lab.strategies", supplied=("model",), factory=True, stored=True
    ),
    "layer": Slot("", "torch.nn.Module", "sr_lab.layers", _LAYERS, nested=("layer",)),
    "schedule": Slot(
        "schedule.scheduler",
        "torch.optim.lr_scheduler.LRScheduler",
        classes=_named(
            "torch.optim.lr_scheduler",
            "ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LinearLR "
            "MultiStepLR OneCycleLR PolynomialLR ReduceLROnPlateau SequentialLR StepLR",
        ),
        nested=("schedule",),  # the schedules inside a SequentialLR get the optimizer too
        supplied=("optimizer",),
        factory=True,
    ),
    "dataset": Slot(
        "dataset",
        "sr_lab.datasets.patches.PatchDataset",
        "sr_lab.datasets",
        own_base="torch.utils.data.Dataset",
        nested=("degradation",),
    ),
    "degradation": Slot("degradation", "torch.nn.Module", "sr_lab.degradations"),
    "loss": Slot(
        "loss",
        "torch.nn.Module",
        "sr_lab.losses",
        (
            *_named("torch.nn", "HuberLoss L1Loss MSELoss SmoothL1Loss"),
            *_named("kornia.losses", "CharbonnierLoss MS_SSIMLoss PSNRLoss SSIMLoss"),
        ),
        nested=("loss",),
    ),
    "optimizer": Slot(
        "optimizer",
        "torch.optim.Optimizer",
        classes=_named(
            "torch.optim",
            "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax Muon NAdam RAdam RMSprop Rprop SGD",
        ),
        supplied=("params",),
        factory=True,
    ),
    "trainer": Slot(
        "trainer",
        "lightning.Trainer",
        classes=("lightning.Trainer",),
        nested=("profiler",),
        supplied=(
            *("max_steps", "max_epochs", "callbacks", "logger", "plugins", "default_root_dir", "precision"),
            *("val_check_interval", "check_val_every_n_epoch", "use_distributed_sampler"),
            *("num_sanity_val_steps", "enable_model_summary", "model_registry"),
            # only the budget may shorten a training run, since tables show the budget
            *("fast_dev_run", "limit_train_batches", "limit_val_batches", "limit_test_batches"),
            *("overfit_batches", "max_time", "min_steps", "min_epochs", "barebones"),
            # no effect: checkpoints are always saved, and there is one endless epoch and no prediction
            *("enable_checkpointing", "reload_dataloaders_every_n_epochs", "limit_predict_batches"),
            "enable_autolog_hparams",
        ),
    ),
    "profiler": Slot(
        "",
        "lightning.pytorch.profilers.Profiler",
        classes=_named("lightning.pytorch.profilers", "AdvancedProfiler PyTorchProfiler SimpleProfiler"),
    ),
    "callback": Slot(
        "callbacks.*",
        "lightning.Callback",
        classes=_named(
            "lightning.pytorch.callbacks",
            "DeviceStatsMonitor EMAWeightAveraging EarlyStopping LearningRateMonitor ModelCheckpoint "
            "ModelPruning ModelSummary RichModelSummary SpikeDetection Timer WeightAveraging",
        ),
    ),
    "logger": Slot(
        "logger.*",
        "lightning.pytorch.loggers.Logger",
        classes=_named("lightning.pytorch.loggers", "CSVLogger TensorBoardLogger WandbLogger"),
        supplied=(
            *("save_dir", "dir", "name", "version", "id", "group", "job_type", "resume"),
            *("config", "settings", "anonymous", "experiment"),
        ),
    ),
}

# Groups whose options describe an object.
DESCRIBED = {slot.place.partition(".")[0] for slot in SLOTS.values() if slot.place}

# Lightning's callbacks that do not work with one endless epoch or an exact resume, and what to use instead.
INSTEAD = {
    "StochasticWeightAveraging": "its average is not tested and cannot be resumed; use ema_decay=0.999",
    "LearningRateFinder": "it trains before the run starts, and a resumed run would not repeat that; compare "
    "values with -m learning_rate=1e-4,2e-4,5e-4 budget.max_steps=2000, or use hparams_search=optuna",
    "BatchSizeFinder": "batch_size is part of the recipe, and the size that this callback finds depends on "
    "the memory of the device; if memory is short, keep batch_size and set trainer.accumulate_grad_batches=2",
    "GradientAccumulationScheduler": "it changes the accumulation at given epochs, but a run is one "
    "endless epoch, and batch_size is that of all accumulated batches together; set "
    "trainer.accumulate_grad_batches=2",
    "BackboneFinetuning": "it unfreezes weights at a given epoch, but a run is one endless epoch; train with "
    "freeze=[head,body], then continue with all weights: init_ckpt=<run folder>",
    "BaseFinetuning": "it freezes and unfreezes weights at given epochs, but a run is one endless epoch; "
    "train with freeze=[<names of parameters>], then continue with all weights: init_ckpt=<run folder>",
}

# Names that classes with ``**kwargs`` accept in addition to their named parameters, or that a configuration
# may set although `Slot.supplied` lists them.
KEYWORDS = {
    "lightning.pytorch.loggers.WandbLogger": ("entity", "group", "name", "notes", "tags"),
    "lightning.pytorch.loggers.TensorBoardLogger": ("flush_secs", "max_queue"),
}
