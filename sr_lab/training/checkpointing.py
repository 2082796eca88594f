"""What lets a run go on where it was killed: checkpoints that are whole, checked and complete."""

import contextlib
import functools
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, distributed

from sr_lab import files
from sr_lab.checkpoints import digest
from sr_lab.checkpoints.reading import Checkpoint, open_checkpoint
from sr_lab.errors import CheckpointError

LAST, PREVIOUS, BEST, DAMAGED = "last.ckpt", "previous.ckpt", "best.ckpt", "damaged.ckpt"
_NUMPY_WORDS = 624  # of its Mersenne twister


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, with its SHA-256, flushes it to the disk and renames it.

    Lightning's own writer goes through the temporary folder; when that is another file system, a kill during
    the final copy destroys the old checkpoint too. ``last.ckpt`` becomes ``previous.ckpt`` once its successor
    is on the disk: at any instant one of the two is there and whole.

    Args:
        earlier: Checkpoints of an attempt whose place this one takes, removed once it has saved.
    """

    def __init__(self, earlier: Path | None = None) -> None:
        super().__init__()
        self.earlier = earlier

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Save atomically."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(target, keep=PREVIOUS if target.name == LAST else None) as file:
            torch.save(checkpoint, file)
            digest.seal(file)
        if target.name == LAST and self.earlier is not None and self.earlier.exists():
            shutil.rmtree(self.earlier, ignore_errors=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file that a callback has replaced; its name may come from a checkpoint of a stranger.

        Lightning's own removes whole folders, and takes ``<its folder>/../..`` for one below its folder.

        Raises:
            CheckpointError: It is no checkpoint, or leads out of its folder.
        """
        target = Path(path)
        if target.suffix != ".ckpt" or ".." in target.parts or target.is_dir():
            raise CheckpointError(
                f"resume: the checkpoint says that it replaces '{path}', which is no checkpoint of this run; "
                "take another, or begin anew with resume=never"
            )
        target.unlink(missing_ok=True)


def newest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The checkpoint that a run goes on from: the last, or the one before it if the last is damaged.

    A damaged one is named, and set aside as ``damaged.ckpt``: it must not become the next ``previous.ckpt``.

    Args:
        folder: The run's ``checkpoints``.
        say: Tells the user.

    Returns:
        ``None`` of a run that has not saved yet.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged; they stay as they are.
    """
    there = [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]
    problems = [_problem(path) for path in there]
    good = next((path for path, problem in zip(there, problems, strict=True) if problem is None), None)
    if there and good is None:
        raise CheckpointError(
            f"resume: no checkpoint in '{folder}' can be read ({', '.join(path.name for path in there)}: "
            "damaged); put a good one there as last.ckpt, or begin anew with resume=never"
        )
    if good is not None and good != there[0]:
        say(f"{problems[0]}; goes on from {good.name}, the one before it")
        with contextlib.suppress(FileNotFoundError):  # another rank was faster
            there[0].replace(folder / DAMAGED)
    return good


def _problem(path: Path) -> CheckpointError | None:
    try:
        open_checkpoint(str(path), "resume")
    except CheckpointError as error:
        return error
    return None


def to_test(folder: Path) -> Checkpoint:
    """The best checkpoint; where that is lost or damaged the last, so that a run comes to its end.

    Raises:
        CheckpointError: None can be read; the sentence is about the best.
    """
    problems = []
    for name in (BEST, LAST, PREVIOUS):
        try:
            return open_checkpoint(str(folder / name))
        except CheckpointError as error:
            problems.append(error)
    raise problems[0]


class Checkpoints(ModelCheckpoint):
    """Lightning's, whose best score and paths follow a run folder that was moved."""

    say: Callable[[str], None] = print
    # It saves after a validation: asked at each step Lightning's would do nothing, and cost 0.03 ms.
    on_train_batch_end = lightning.Callback.on_train_batch_end

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state, with the paths of today; without the best score if its checkpoint is lost."""
        path = Path(str(self.dirpath), f"{self.filename}.ckpt")
        if self.monitor and state_dict["best_model_path"] and _problem(path) is not None:
            how = f"damaged, and set aside as {DAMAGED}" if path.is_file() else "gone"
            with contextlib.suppress(FileNotFoundError):  # another rank was faster
                path.replace(path.with_name(DAMAGED))
            self.say(f"resume: {path.name} is {how}; the next validation writes a new one")
            return
        old, new = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: object) -> object:
            if isinstance(value, dict):
                return {moved(key): score for key, score in value.items()}
            return new + value[len(old) :] if isinstance(value, str) and value.startswith(old) else value

        super().load_state_dict({key: moved(value) for key, value in state_dict.items()} | {"dirpath": new})
        self.current_score = state_dict["current_score"]  # which Lightning leaves out


def checkpoints(folder: Path, say: Callable[[str], None] = print) -> list[Checkpoints]:
    """What saves at each validation: ``best.ckpt`` if it is, and ``last.ckpt`` whether or not it is.

    Lightning's ``save_last`` saves only when the score is a new best: on a plateau all work would be lost.
    """
    make = functools.partial(Checkpoints, folder, enable_version_counter=False)
    best, last = make(Path(BEST).stem, monitor="val/psnr_y", mode="max"), make(Path(LAST).stem)
    best.say = say
    return [best, last]


class _State(TypedDict):
    """Random state of one rank, in types that ``weights_only`` lets through."""

    python: tuple[object, ...]
    numpy: tuple[object, ...]
    torch: Tensor
    cuda: Tensor | None


class RandomState(lightning.Callback):
    """Keeps the random state of Python, NumPy and torch, of each rank and its device, in every checkpoint.

    Lightning leaves it out, so that dropout would go on differently after a resume. It is put back when the
    training starts, after all that draws random numbers on the way there (the data loader does): be the last.
    """

    _states: list[_State] | None = None

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Store the state of every rank; all of them come here."""
        own = _random_state(trainer.strategy.root_device)
        states = [own] * trainer.world_size
        if trainer.world_size > 1:
            distributed.all_gather_object(states, own)
        checkpoint["random_state"] = states

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Keep the states until the training starts."""
        self._states = checkpoint.get("random_state")  # type: ignore[assignment]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Put back the state of this rank; where there are more ranks than before, those stay as seeded."""
        if self._states is not None and trainer.global_rank < len(self._states):
            _set_random_state(self._states[trainer.global_rank], trainer.strategy.root_device)
        self._states = None


def _random_state(device: torch.device) -> _State:
    name, key, *rest = np.random.get_state()  # noqa: NPY002 - whoever uses it, it is part of the run
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(key).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_random_state(state: _State, device: torch.device) -> None:
    try:
        if not 0 <= state["numpy"][2] <= _NUMPY_WORDS:  # type: ignore[operator] # NumPy would read what lies there
            raise ValueError("no position in the state")
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # type: ignore[arg-type] # noqa: NPY002
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "resume: the checkpoint's random state is none; take another checkpoint, or begin anew with "
            "resume=never"
        ) from error
