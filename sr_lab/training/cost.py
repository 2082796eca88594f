"""What a training step costs on this machine, measured in a few steps on random patches."""

import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_lab.checkpoints.opening import build_network
from sr_lab.config import targets
from sr_lab.config.schema import TrainConfig
from sr_lab.datasets.patches import PatchBatch, RandomDegradation, with_lr
from sr_lab.errors import ConfigError
from sr_lab.layers.network import min_size_of, num_image_ch
from sr_lab.ops.complexity import multi_adds
from sr_lab.protocol import PROTOCOLS
from sr_lab.system.devices import arithmetic, device_name, out_of_memory
from sr_lab.training import build, recipe
from sr_lab.training.lit_module import SRModule

STEPS = 20
_SECONDS = 10.0  # time for measuring the steps of one network on a CPU
_WARM_UP = 2
_FORWARD = 3  # passes without gradients
_GPU_SIDE = 256  # LR pixels; a small image would not occupy a GPU


@dataclass(frozen=True)
class Cost:
    """The cost of training one network.

    Args:
        multi_adds: Multiply-adds of an optimizer step over all devices, see `count`.
        seconds: Time of an optimizer step.
        steps: Measured steps.
        samples: Samples in each measured step.
        batch: Samples that a device trains on at a time.
        forward: Seconds for one LR pixel of a whole image.
        memory: Bytes of weights, gradients, optimizer and activations on the device.
        checkpoint: Bytes of one checkpoint.
        fits: Whether a step fits into the GPU's memory; if not, nothing is measured.
    """

    multi_adds: int
    seconds: float = 0.0
    steps: int = 0
    samples: int = 0
    batch: int = 0
    forward: float = 0.0
    memory: int = 0
    checkpoint: int = 0
    fits: bool = True


def key(config: TrainConfig) -> str:
    """Two training runs with the same key cost the same for each step."""
    settings = ("model", "upsampler", "strategy", "loss", "optimizer", "freeze", "degradation", "scale")
    values = config.model_dump(include={*settings, "batch_size", "ema_decay"}) | {"patch": patch_size(config)}
    options = config.trainer.model_dump()
    return json.dumps([values, options, build.precision(config)], sort_keys=True, default=str)


def patch_size(config: TrainConfig) -> int:
    """Side of the LR patches."""
    size = config.dataset.get("lr_patch_size", 48)
    return size if isinstance(size, int) else 48


def where(config: TrainConfig) -> str:
    """The device of a measurement."""
    return device_name(config.trainer.accelerator, config.trainer.devices)


def count(config: TrainConfig) -> int:
    """Multiply-adds of an optimizer step: those of a forward pass, and twice as many for the backward pass.

    Raises:
        ConfigError: The network has no weights to train, or the patches are too small for it.
    """
    size = patch_size(config)
    with torch.device("meta"):
        network = build_network(config, config.allow)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ConfigError(f"model: {type(network).__name__} has no weights to train; use task=evaluate")
    if size < min_size_of(network):
        raise ConfigError(
            f"dataset.lr_patch_size: {type(network).__name__} needs at least {min_size_of(network)}, "
            f"got {size}; use larger patches"
        )
    side = config.scale * size
    # torch's counter is wrong for the backward pass of grouped convolutions.
    forward = multi_adds(network, scale=config.scale, rule="all", hr_size=(side, side))
    return 3 * forward * config.batch_size


def measure(config: TrainConfig) -> Cost:
    """Time some steps, each as in training: the batch on the device, both passes, the optimizer.

    On a CPU with slow steps, only part of the batch is measured, since the time grows with its size.
    The time does not include loading data, which worker processes do meanwhile, nor exchanging gradients.
    """
    device = build.device(config)
    options = config.trainer.arguments()
    tuned = options.get("benchmark") is True and options.get("deterministic") is not True
    with (
        torch.random.fork_rng(),
        arithmetic(tf32=config.trainer.float32_matmul_precision == "high", benchmark=tuned),
    ):
        try:
            return _measure(config, device)
        except Exception as error:
            if device.type == "cpu" or not out_of_memory(error):
                raise
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return Cost(count(config), batch=build.batch_of_a_device(config), fits=False)


def _measure(config: TrainConfig, device: torch.device) -> Cost:
    counted = count(config)
    batch, accumulate = build.batch_of_a_device(config), config.trainer.accumulate_grad_batches
    network = build_network(config, config.allow).to(device).train()
    plain = config.trainer.model_copy(update={"autotune": False})
    setting, _ = build.layout_and_compilation(
        config.model_copy(update={"trainer": plain}), network, patch_size(config), lambda _: None
    )
    setting.apply(network)
    step, optimizer = _step(config, network, device)
    if on_gpu := device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        samples, steps = batch, STEPS
    else:
        saved = _saved(lambda: step(1))  # this also allocates the optimizer's state
        samples, steps = _affordable(_timed(lambda: step(1)), batch)
    for _ in range(_WARM_UP):
        step(samples)
    seconds = statistics.median(_timed(lambda: step(samples)) for _ in range(steps))
    weights = sum(parameter.nbytes for parameter in network.parameters())
    state = sum(
        value.nbytes
        for values in optimizer.state.values()
        for value in values.values()
        if isinstance(value, Tensor)
    )
    memory = torch.cuda.max_memory_allocated(device) if on_gpu else 2 * weights + state + saved * batch
    averaged = weights if config.ema_decay is not None else 0
    return Cost(
        multi_adds=counted,
        seconds=seconds * batch / samples * accumulate,
        steps=steps,
        samples=samples,
        batch=batch,
        forward=_forward(network, _GPU_SIDE if on_gpu else patch_size(config), device),
        memory=memory + averaged,
        checkpoint=weights + state + averaged,
    )


def _affordable(seconds: float, batch: int) -> tuple[int, int]:
    """How many samples a measured step has, and the number of steps, given the time of one sample."""
    samples = int(_SECONDS / (STEPS * seconds))
    if samples >= 1:
        return min(samples, batch), STEPS
    return 1, max(3, int(_SECONDS / seconds))


def _step(
    config: TrainConfig, network: nn.Module, device: torch.device
) -> tuple[Callable[[int], None], torch.optim.Optimizer]:
    """A function that trains on a given number of random samples, and its optimizer."""
    recipe.freeze(network, config.freeze)
    optimizer = build.optimizer_factory(config)(
        [weight for weight in network.parameters() if weight.requires_grad]
    )
    loss = targets.build("loss", config.loss, config.allow)
    module = SRModule(network, scale=config.scale, protocol=PROTOCOLS["rgb_uint8"], loss=loss)
    degradation = targets.build("degradation", config.degradation, config.allow)
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(build.precision(config))
    made: dict[int, PatchBatch] = {}

    def step(samples: int) -> None:
        if samples not in made:
            made[samples] = _batch(config, samples, degradation, device)
        batch = made[samples]
        if isinstance(degradation, RandomDegradation):
            batch = with_lr(batch, degradation)
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            result = module.training_step(batch, 0)
            torch.autograd.backward(result if isinstance(result, Tensor) else result["loss"])
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step, optimizer


def _batch(config: TrainConfig, samples: int, degradation: object, device: torch.device) -> PatchBatch:
    """Random patches, or for a random degradation the windows around them."""
    generator, size = torch.Generator().manual_seed(0), patch_size(config)
    random = isinstance(degradation, RandomDegradation)
    margin = degradation.margin if isinstance(degradation, RandomDegradation) else 0

    def drawn(most: int, *shape: int) -> Tensor:
        return torch.randint(0, most, shape, dtype=torch.uint8, generator=generator).to(device)

    side = config.scale * (size + 2 * margin)
    batch: PatchBatch = {
        "hr": drawn(256, samples, 3, side, side),
        "name": ["random"] * samples,
        "dihedral": drawn(8, samples),
    }
    if random:
        batch["key"] = list(range(samples))
    else:
        batch["lr"] = drawn(256, samples, 3, size, size)
    return batch


def _saved(step: Callable[[], None]) -> int:
    """Bytes that a step keeps for its backward pass."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(sizes.values())


def _forward(network: nn.Module, side: int, device: torch.device) -> float:
    """Seconds for one LR pixel, in float32 and without gradients."""
    image = torch.rand(1, num_image_ch(network), side, side, device=device)

    def run() -> None:
        network.forward(image)  # not compiled, as in the validation
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    network.eval()
    with torch.no_grad():
        run()
        return statistics.median(_timed(run) for _ in range(_FORWARD)) / side**2


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
