"""What a configuration may contain: a class per task, with the keys of ``conf/config.yaml`` as fields."""

import functools
import math
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, get_args, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Node: TypeAlias = dict[str, object]
Place: TypeAlias = Annotated[str, "a file or folder"]

# Arguments with such a name are paths, but ``num_path`` is a number.
PATH_NAME = re.compile(r"^(?!num_)(.*_)?(dir|dirpath|path|folder|root)$")

# An ``output`` of task=upscale with one of these suffixes is a file; some of these formats are refused later.
IMAGE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".gif", ".bmp", ".avif", ".jp2", ".heic")
}

EXPERIMENT_NAME = r"^\w[\w.-]*(/\w[\w.-]*)*$"  # so that it cannot lead out of paths.output_dir

# The values that the recipe had before a limit of the budget changed them, and the steps of an epoch if the
# budget must not change them.
Recipe: TypeAlias = dict[
    Literal[
        "steps", "batch_size", "lr_patch_size", "validation_interval", "validation_count", "steps_per_epoch"
    ],
    Annotated[int | float, Field(gt=0)],
]


class _Strict(BaseModel):
    """A model in which unknown keys and values of the wrong type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Paths(_Strict):
    """Folders in which files are read and written; never part of a run's identity."""

    data_dir: str
    output_dir: str
    cache_dir: str


def _distinct(names: list[str]) -> list[str]:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{', '.join(twice)} must be listed only once")
    return names


Distinct: TypeAlias = Annotated[list[str], AfterValidator(_distinct)]
# Part of a file's name, never a path to another folder: a checkpoint or a configuration may be untrusted.
Name: TypeAlias = Annotated[str, Field(pattern=r"^\w[^/\\\x00-\x1f]*$")]
Sets: TypeAlias = Annotated[list[Name], AfterValidator(_distinct)]


# Left, top, width and height of a window in pixels.
Window: TypeAlias = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=4, max_length=4)]


class Validation(_Strict):
    """How often, and on what, a training run is validated."""

    interval: int = Field(gt=0)
    count: int = Field(gt=0)
    sets: Sets


class Budget(_Strict):
    """Upper limits on the recipe; ``null`` leaves the recipe unchanged."""

    name: str
    max_steps: int | None = Field(gt=0)
    max_batch_size: int | None = Field(gt=0)
    max_lr_patch_size: int | None = Field(gt=0)
    max_validation_interval: int | None = Field(gt=0)
    max_validation_count: int | None = Field(gt=0)


class Upsampler(_Strict):
    """The tail of the network; a null ``factory`` keeps the network's own."""

    name: Name
    factory: Node | None


class Strategy(_Strict):
    """A change to the network; a null ``apply`` leaves the network as it is."""

    name: Name
    apply: Node | None


class Schedule(_Strict):
    """Learning-rate schedule; its settings count in units of ``interval``.

    A schedule that advances after each validation gets the metric named by ``monitor``.
    """

    interval: Literal["step", "epoch", "validation"]
    monitor: str | None = None
    scheduler: Node


class Benchmark(_Strict):
    """Test sets, their LR images, and the protocol for measuring on them."""

    sets: Annotated[Sets, Field(min_length=1)]
    protocol: str
    lr: Literal["made", "given"] = "made"  # config.yaml files of older runs lack it
    lr_dir: str | Annotated[list[str], Field(min_length=1)] | None = None


class Table(_Strict):
    """The table of a paper that an experiment repeats, named as in ``experiments/<paper>/expected.csv``."""

    paper: str
    name: str
    fine_tuned: list[str] = []  # rows that the paper trains at x3 and x4 from its x2 network (init_ckpt)


class Sweep(_Strict):
    """How the jobs of a multirun are run; never part of a run's identity."""

    jobs: int = Field(gt=0)
    retry_failed: bool


def _flat(space: Node) -> Node:
    """The space with dotted keys: ``model.num_feat``, which Hydra reads as ``{model: {num_feat: ...}}``."""
    flat: Node = {}
    for key, value in space.items():
        if isinstance(value, dict) and value and not value.keys() & {"low", "high", "log", "step"}:
            flat |= {f"{key}.{inner}": below for inner, below in _flat(value).items()}
        else:
            flat[key] = value
    return flat


class HparamsSearch(_Strict):
    """A search for the recipe with the best ``val/psnr_y``; ``runs/search.py`` reads its search space."""

    space: Annotated[Node, Field(min_length=1), AfterValidator(_flat)]
    trials: int = Field(gt=0)
    # Names rather than targets, since Optuna's CMA-ES reads pickles from its storage, which may be untrusted.
    sampler: Literal["tpe", "random"]
    pruner: Literal["median", "halving", "none"]
    startup_trials: int = Field(ge=0)
    warmup_steps: int = Field(ge=0)


# Settings of ``trainer`` that are not arguments of Lightning's Trainer, or have another form there.
_OURS = {"timeout", "precision", "float32_matmul_precision", "channels_last", "compile", "autotune"}


class Trainer(BaseModel):
    """Our own options; every other key is an argument of ``lightning.Trainer``."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    accelerator: str
    devices: int | str | list[int] = 1
    timeout: float = Field(default=1800.0, gt=0)  # seconds; config.yaml files of older runs lack it
    precision: Literal["auto", "32-true", "16-mixed", "bf16-mixed"]
    accumulate_grad_batches: int = Field(gt=0)
    gradient_clip_val: float | None = Field(gt=0)
    float32_matmul_precision: Literal["highest", "high"]
    channels_last: bool
    compile: bool
    autotune: bool

    def arguments(self) -> Node:
        """The arguments of ``lightning.Trainer`` except the precision, which is resolved separately."""
        return self.model_dump(exclude=_OURS)


class Config(_Strict):
    """The settings common to all tasks; the fields are the groups and keys of ``conf/config.yaml``."""

    def __hash__(self) -> int:
        """Hash by object identity, for the cache in `config.identity`."""
        return id(self)

    task: str
    model: Node
    upsampler: Upsampler
    strategy: Strategy
    schedule: Schedule
    dataset: Node
    benchmark: Benchmark
    degradation: Node
    loss: Node
    optimizer: Node
    budget: Budget
    recipe: Recipe = {}
    trainer: Trainer
    callbacks: Node = {}
    logger: Node = {}

    scale: int = Field(ge=2, le=64)
    seed: int = Field(ge=0)
    experiment_name: str = Field(pattern=EXPERIMENT_NAME)
    run_name: str = Field(pattern=r"^\w[\w.-]*$", max_length=100)
    rows: dict[str, list[str]] = {}
    row: int | None = None
    row_label: str | None = None  # label of this job's row, whose overrides are already applied
    table: Table | None = None
    columns: str | list[str] = "auto"  # of the table on the terminal
    examples: Annotated[int, Field(ge=0)] | Distinct = 3  # config.yaml files of older runs lack it
    sweep: Sweep = Sweep(jobs=1, retry_failed=False)
    hparams_search: HparamsSearch | None = None
    steps: int = Field(gt=0)
    steps_per_epoch: float = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0)
    ema_decay: float | None = Field(gt=0, lt=1)
    nan_policy: Literal["stop", "skip"] = "stop"  # config.yaml files of older runs lack it
    num_workers: int = Field(ge=0)
    validation: Validation
    paths: Paths
    allow: list[str]


class TrainConfig(Config):
    """``task=train``."""

    init_ckpt: Place | None
    freeze: Distinct = []  # config.yaml files of older runs lack this key and the next
    overfit_batches: int | None = Field(default=None, gt=0)
    validation_images: str | None = None  # SHA-256 of the images of validation.sets, not set by the user
    resume: Literal["auto", "never"]
    code: Literal["same", "any"] = "same"  # config.yaml files of older runs lack it

    @property
    def steps_of_an_epoch(self) -> float:
        """Steps in an epoch; a budget that shortens the run also shortens epochs, unless they were typed."""
        if "steps_per_epoch" in self.recipe:
            return self.steps_per_epoch
        return self.steps_per_epoch * self.steps / self.recipe.get("steps", self.steps)


class PlanConfig(TrainConfig):
    """``task=plan``: the settings of a training run that is only planned."""

    measure: bool
    format: Literal["table", "csv", "markdown"]


class NetworkConfig(Config):
    """A task for a network with its weights."""

    ckpt: Place | None


class CheckpointConfig(NetworkConfig):
    """A task that runs a network without training it."""

    tile: Annotated[int, Field(gt=0)] | Literal["auto", "none"]
    backend: Literal["eager", "onnxruntime", "openvino", "auto"]


class EvaluateConfig(CheckpointConfig):
    """``task=evaluate``; the defaults are for settings that a run's ``config.yaml`` leaves out as unused."""

    explain: bool
    perceptual: list[Literal["lpips", "lpips_vgg", "dists"]] = []
    resume: Literal["auto", "never"] = "auto"  # config.yaml files of older runs lack it
    schedule: Schedule = Schedule(interval="step", scheduler={})
    dataset: Node = {}
    degradation: Node = {}
    loss: Node = {}
    optimizer: Node = {}
    budget: Budget = Budget(
        name="paper",
        max_steps=None,
        max_batch_size=None,
        max_lr_patch_size=None,
        max_validation_interval=None,
        max_validation_count=None,
    )
    seed: int = Field(default=0, ge=0)
    steps: int = Field(default=1, gt=0)
    steps_per_epoch: float = Field(default=1.0, gt=0)
    batch_size: int = Field(default=1, gt=0)
    learning_rate: float = Field(default=1.0, gt=0)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    num_workers: int = Field(default=0, ge=0)
    validation: Validation = Validation(interval=1, count=1, sets=[])
    images: str | None = None  # SHA-256 of the names and contents of the test images, not set by the user
    # Folders of the test sets' own LR images, if they are used; not set by the user.
    lr_folders: list[str] = []


_Limit: TypeAlias = Annotated[int, Field(gt=0)] | Literal["none"] | None


def _pixels(limit: _Limit, usual: float) -> float:
    """The limit that ``max_pixels`` sets on an image, in pixels."""
    return usual if limit is None else math.inf if limit == "none" else limit


class UpscaleConfig(CheckpointConfig):
    """``task=upscale``."""

    input: Place | Annotated[list[Place], Field(min_length=1)]
    output: Place | None
    overwrite: bool
    format: Literal["auto", "png", "jpeg", "webp", "tiff", "gif"]
    quality: int = Field(ge=1, le=100)
    max_pixels: _Limit
    self_ensemble: bool
    dry_run: bool

    @property
    def is_stdout(self) -> bool:
        """Whether the result goes to stdout."""
        return self.output == "-"

    @property
    def file(self) -> str | None:
        """The name of the one file that is written, if ``output`` is not a folder."""
        output = Path(self.output or "").expanduser()
        is_file = output.suffix.lower() in IMAGE_SUFFIXES and not output.is_dir()
        return output.name if is_file else None

    @property
    def folder(self) -> str:
        """The folder in which files are written."""
        if self.output is None or self.is_stdout:
            return "." if self.output else "upscaled"
        output = Path(self.output).expanduser()
        return str(output if self.file is None else output.parent)

    @property
    def most_pixels(self) -> float:
        """The limit on an image, in pixels."""
        return _pixels(self.max_pixels, 128e6)  # the largest photographs from phones have 108 million


class PicturedConfig(Config):
    """A task that draws a figure from an image and several networks."""

    ckpts: Place | list[Place]
    own_runs: Place | None
    only: Distinct
    names: Distinct
    input: Place | None
    hr: Place | None
    crop: Window | Literal["auto"]
    crop_size: int = Field(gt=0)
    output: Place | None
    overwrite: bool

    @property
    def weights(self) -> list[str]:
        """What ``ckpts`` names."""
        return [self.ckpts] if isinstance(self.ckpts, str) else self.ckpts

    @property
    def folder(self) -> str:
        """The folder in which files are written."""
        name = self.task if self.experiment_name == "train" else self.experiment_name
        return self.output or str(Path(self.paths.output_dir) / name)


class CompareConfig(PicturedConfig):
    """``task=compare``."""


_Analysis: TypeAlias = (
    Literal["psd", "residual", "features", "attention", "lam", "receptive_field", "errors"]
    | Literal["schedule", "convergence", "tradeoff"]
)


class AnalyzeConfig(PicturedConfig):
    """``task=analyze``."""

    kind: _Analysis
    blocks: list[Annotated[str, BeforeValidator(str)]]
    channels: int = Field(ge=0)
    modules: list[str]
    schedules: Annotated[list[Name], AfterValidator(_distinct)]
    psnr_set: str | None


_Format: TypeAlias = Literal["onnx", "pt2", "safetensors", "official"]


def _size(given: object) -> object:
    if given is not None and not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", str(given)):
        raise ValueError(f"must be height x width in LR pixels, got {given!r}; write size=180x320")
    return given


class ExportConfig(NetworkConfig):
    """``task=export``."""

    format: _Format | Annotated[list[_Format], Field(min_length=1)]
    output: Place
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None
    size: Annotated[str | None, BeforeValidator(_size)]
    dtype: Literal["float32", "float16"]
    overwrite: bool


class StoredNetwork(_Strict):
    """The description of the network that our own checkpoints contain."""

    model: Node
    upsampler: Upsampler
    strategy: Strategy
    scale: int = Field(ge=2, le=64)


class ComplexityConfig(Config):
    """``task=complexity``."""

    psnr_set: str
    runs: Place | None


class PrepareConfig(Config):
    """``task=prepare``."""

    mirror: str | None
    decode: bool


class ShardConfig(Config):
    """``task=shard``."""

    output: Place
    images_per_shard: int = Field(gt=0)
    lr_scales: list[Annotated[int, Field(ge=2)]]


class UnbuiltConfig(Config):
    """A task that builds nothing from the configuration."""


class BenchmarkConfig(UnbuiltConfig):
    """``task=benchmark``."""

    rounds: int = Field(gt=0)
    only: list[str]
    store: bool


class MeasureConfig(UnbuiltConfig):
    """``task=measure``."""

    sr_dir: str
    hr_dir: str
    crop: Annotated[int, Field(ge=0)] | None
    colour: Literal["y", "rgb"] | None


class DoctorConfig(UnbuiltConfig):
    """``task=doctor``."""

    folder: str


class NewConfig(UnbuiltConfig):
    """``task=new``."""

    name: str
    at: Place


class ZooConfig(UnbuiltConfig):
    """``task=zoo``."""

    fetch: list[str] | Literal["all"]


class DemoConfig(UnbuiltConfig):
    """``task=demo``."""

    ckpt: Place | Annotated[list[Place], Field(min_length=1)] | None
    port: Annotated[int, Field(gt=0, lt=2**16)] | None
    tile: Annotated[int, Field(gt=0)] | Literal["auto", "none"]
    backend: Literal["eager", "onnxruntime", "openvino", "auto"]
    max_pixels: _Limit

    @property
    def most_pixels(self) -> float:
        """The limit on an image, in pixels."""
        return _pixels(self.max_pixels, 4e6)


class ReadingConfig(UnbuiltConfig):
    """A task that reads run folders and builds nothing."""

    runs: Place


class ReportConfig(ReadingConfig):
    """``task=report``."""

    baseline: str | None = None
    write_results: bool = False


SCHEMAS: dict[str, type[Config]] = {
    "train": TrainConfig,
    "plan": PlanConfig,
    "evaluate": EvaluateConfig,
    "measure": MeasureConfig,
    "upscale": UpscaleConfig,
    "compare": CompareConfig,
    "analyze": AnalyzeConfig,
    "export": ExportConfig,
    "demo": DemoConfig,
    "complexity": ComplexityConfig,
    "prepare": PrepareConfig,
    "doctor": DoctorConfig,
    "shard": ShardConfig,
    "benchmark": BenchmarkConfig,
    "new": NewConfig,
    "zoo": ZooConfig,
    "report": ReportConfig,
    "status": ReadingConfig,
    "dashboard": ReadingConfig,
    "log": ReadingConfig,
}


@functools.cache
def _having(kind: object) -> set[str]:
    """The settings that may have values of a type."""
    hints = (get_type_hints(schema, include_extras=True).items() for schema in SCHEMAS.values())
    return {key for own in hints for key, hint in own if kind in (hint, *get_args(hint))}


def is_window(key: str) -> bool:
    """Whether a setting may be a window."""
    return key in _having(Window)


def is_path(key: str) -> bool:
    """Whether a setting is a file or folder: a field of type `Place`, or one with the name of a path."""
    return key in _having(Place) or PATH_NAME.search(key.rpartition(".")[2]) is not None
