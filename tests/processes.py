"""Train in several processes, connected by gloo.

Each scenario, such as ``exact:2``, is a function of this file that runs in that many processes.
"""

import gc
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import lightning
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import Tensor, nn

from sr_lab.errors import DistributedError
from sr_lab.models.imdn import IMDN
from sr_lab.models.imfm import IMFM
from sr_lab.models.mren import MREN
from sr_lab.system import distributed
from sr_lab.tasks import common
from sr_lab.training.examples import ExampleImages
from sr_lab.training.lit_module import SRModule
from tests import prepared, tiny

STEPS = 20
BATCH = 4
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "imdn": lambda: IMDN(scale=2, num_feat=16, num_block=1),
    "mren": lambda: MREN(scale=2, num_feat=12, num_block=1),
    "imfm": lambda: IMFM(scale=2, num_feat=8, num_block=1, num_path=2),
}
SETS = (("A", 5), ("B", 2), ("C", 1))  # with three ranks, B and C have fewer images than ranks


class Double(nn.Module):
    """A network in double precision that converts its input."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, lr: Tensor) -> Tensor:
        return self.network(lr.double())


class Normed(tiny.TinyNet):
    """``TinyNet`` with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(12)

    def forward(self, lr: Tensor) -> Tensor:
        return self.tail(self.norm(self.head(lr)))


class Losses(lightning.Callback):
    """Records the loss of every step, averaged over processes."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_) -> None:
        self.values.append(float(trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")))


def trainer(folder: Path, world: int, **settings: object) -> lightning.Trainer:
    """The trainer of one process out of ``world``."""
    several = {"accelerator": "cpu", "devices": world, "strategy": "ddp" if world > 1 else "auto"}
    return tiny.trainer(folder, **(distributed.trainer_arguments(several, timeout=60) | settings))


def module(name: str, *, double: bool) -> SRModule:
    """One of the papers' networks with the optimizer that the papers use."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    return tiny.sr_module(
        network=Double(network) if double else network,
        make_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-4),
    )


def fit(
    folder: Path,
    world: int,
    name: str,
    *,
    double: bool = False,
    stop: int | None = None,
    ckpt: Path | None = None,
) -> dict[str, object]:
    """Train a network and return its losses and weights."""
    losses, own = Losses(), module(name, double=double)
    done = trainer(folder, world, max_steps=stop or STEPS, limit_val_batches=0, callbacks=[losses])
    done.fit(own, tiny.data(batch_size=BATCH), ckpt_path=ckpt, weights_only=True)
    if stop is not None:
        done.save_checkpoint(folder / "half.ckpt")
    return {"losses": losses.values, "weights": own.network.state_dict()}


def exact(folder: Path, world: int) -> dict[str, object]:
    """Train every network in float64, where rounding errors are tiny, and IMDN in float32 too."""
    found = {f"{name}-64": fit(folder, world, name, double=True) for name in NETWORKS}
    return found | {"imdn-32": fit(folder, world, "imdn")}


def one(folder: Path, world: int) -> dict[str, object]:
    """Train one network."""
    return fit(folder, world, "imdn")


def half(folder: Path, world: int) -> dict[str, object]:
    """Train for the first half of the steps and save a checkpoint."""
    return fit(folder, world, "imdn", stop=STEPS // 2)


def rest(folder: Path, world: int) -> dict[str, object]:
    """Train for the second half of the steps, resumed from the checkpoint."""
    return fit(folder, world, "imdn", ckpt=folder / "half.ckpt")


def measure(folder: Path, world: int) -> dict[str, object]:
    """Validate and test on sets, some of which have fewer images than there are processes."""
    sets = [tiny.Images(name, count) for name, count in SETS]
    own, data = tiny.sr_module(val=sets, test=sets), tiny.data(val=sets, test=sets)
    validator = trainer(folder, world)
    validator.validate(own, data, verbose=False)
    values = {key: float(value) for key, value in validator.callback_metrics.items()}
    pictures = ExampleImages(folder / f"pictures-{world}", keep=2, size=8)
    trainer(folder, world, callbacks=[pictures]).test(own, data, verbose=False)
    images = common.gather(own.results)
    saved = sorted(str(file.relative_to(pictures.folder)) for file in pictures.folder.rglob("*.png"))
    return {
        "validated": values,
        "images": [str(image) for image in images],
        "means": common.means(images),
        "pictures": saved,
    }


def norm(folder: Path, world: int) -> dict[str, object]:
    """Train a network with batch norm; return each rank's validation PSNR and running statistics."""
    images = [tiny.Images("A", 3)]
    own, data = tiny.sr_module(network=Normed(), val=images), tiny.data(val=images, batch_size=8)
    done = trainer(folder, world, max_steps=3, val_check_interval=3)
    done.fit(own, data)
    return {
        "psnr": float(done.callback_metrics["val/psnr_y"]),
        "statistics": {key: value.clone() for key, value in own.network.norm.named_buffers()},
    }


class Ends(lightning.Callback):
    """Calls ``how`` on the last rank before the third step, which makes that rank exit or hang."""

    def __init__(self, how: Callable[[], object]) -> None:
        self.how = how

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if batch_idx == 2 and trainer.global_rank == trainer.world_size - 1:
            self.how()


def _told(trained: lightning.Trainer) -> dict[str, object]:
    """The error reported when a training run loses a process, and the seconds until then."""
    started = time.monotonic()
    try:
        with distributed.together(trained):
            trained.fit(tiny.sr_module(), tiny.data(batch_size=BATCH))
    except DistributedError as error:
        return {"told": str(error), "seconds": time.monotonic() - started}
    return {"told": "", "seconds": 0.0}


def dies(folder: Path, world: int) -> dict[str, object]:
    """Train while one process exits without notice."""
    callbacks = [Ends(lambda: os._exit(0))]
    return _told(trainer(folder, world, max_steps=9, limit_val_batches=0, callbacks=callbacks))


def hangs(folder: Path, world: int) -> dict[str, object]:
    """Train while one process hangs."""
    several = {"accelerator": "cpu", "devices": world, "strategy": "ddp"}
    callbacks = [Ends(lambda: time.sleep(6))]
    settings = distributed.trainer_arguments(several, timeout=2) | {"max_steps": 9, "limit_val_batches": 0}
    return _told(tiny.trainer(folder, callbacks=callbacks, **settings))


def alone(folder: Path, world: int) -> dict[str, object]:
    """Train while the other machine does not start."""
    settings = {"accelerator": "cpu", "devices": 1, "num_nodes": 2, "strategy": "ddp"}
    port = find_free_network_port()
    os.environ |= {"LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return _told(tiny.trainer(folder, max_steps=9, **distributed.trainer_arguments(settings, timeout=2)))


def run(folder: Path, *scenarios: str, timeout: float = 240) -> dict[str, list[dict]]:
    """Run scenarios such as ``exact:2`` in a separate process; return the result of each rank."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    done = prepared.run(
        "tests.processes:main",
        str(folder),
        *scenarios,
        folder=Path.cwd(),
        environment=environment | {"OMP_NUM_THREADS": "1"},
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return {
        scenario: [
            torch.load(path, weights_only=True)
            for path in sorted(folder.glob(f"{scenario.replace(':', '-')}-*.pt"))
        ]
        for scenario in scenarios
    }


def _rank(folder: Path, name: str, world: int, rank: int, port: int) -> None:
    if world > 1:  # tells Lightning that the processes are already running
        os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.save(globals()[name](folder, world), folder / f"{name}-{world}-{rank}.pt")


def main(folder: str, *scenarios: str) -> None:
    """Run scenarios one after the other, each in as many processes as it asks for."""
    warnings.filterwarnings("ignore")
    gc.freeze()  # otherwise, garbage collection in the processes would copy memory shared with this one
    fork = multiprocessing.get_context("fork")
    for scenario in scenarios:
        what, _, world = scenario.partition(":")
        port, count = find_free_network_port(), int(world)
        ranks = [(Path(folder), what, count, rank, port) for rank in range(count)]
        group = [fork.Process(target=_rank, args=rank) for rank in ranks]
        for process in group:
            process.start()
        for process in group:
            process.join()
        if any(process.exitcode for process in group):
            sys.exit(1)
