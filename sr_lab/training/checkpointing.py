"""Checkpoints from which a killed run resumes: complete files with everything the training depends on."""

import contextlib
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor, distributed

from sr_lab import files
from sr_lab.checkpoints.reading import Checkpoint, open_checkpoint
from sr_lab.errors import CheckpointError
from sr_lab.training.lit_module import Saved

LAST, PREVIOUS, BEST, DAMAGED = "last.ckpt", "previous.ckpt", "best.ckpt", "damaged.ckpt"
_NUMPY_WORDS = 624  # in the state of NumPy's Mersenne twister


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint next to its target, flushes it to the disk and renames it.

    Lightning's own writer uses the system's temporary folder; if that is on another file system, a kill
    during the final copy destroys the old checkpoint too. ``last.ckpt`` becomes ``previous.ckpt`` once its
    successor is on the disk, so one of the two exists and is complete at any time.

    Args:
        earlier: Folder of an earlier attempt's checkpoints, removed once this attempt has saved one.
        folders: Folders from which a callback may remove checkpoints.
    """

    def __init__(self, earlier: Path | None = None, folders: Sequence[Path] = ()) -> None:
        super().__init__()
        self.earlier = earlier
        self.folders = [folder.resolve() for folder in folders]

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None
    ) -> None:
        """Save atomically."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(target, keep=PREVIOUS if target.name == LAST else None) as file:
            torch.save(checkpoint, file)
        if target.name == LAST and self.earlier is not None and self.earlier.exists():
            shutil.rmtree(self.earlier, ignore_errors=True)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file that a callback has replaced; its name may come from an untrusted checkpoint.

        Lightning's own method removes whole folders, and accepts ``<its folder>/../..`` as a path inside it.

        Raises:
            CheckpointError: The file is not a checkpoint, or the path leads out of its folder.
        """
        target = Path(path)
        inside = any(target.parent.resolve().is_relative_to(folder) for folder in self.folders)
        if target.suffix != ".ckpt" or not inside or target.is_dir():
            raise CheckpointError(
                f"resume: the checkpoint says that it replaces '{path}', which is not a checkpoint of this "
                "run; use another checkpoint, or train from scratch with resume=never"
            )
        target.unlink(missing_ok=True)


def newest(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The checkpoint from which a run resumes: the last one, or the one before it if the last is damaged.

    A damaged file is reported and renamed to ``damaged.ckpt``, so that it does not become ``previous.ckpt``.

    Args:
        folder: The run's ``checkpoints``.
        say: Prints a line for the user.

    Returns:
        ``None`` if the run has not saved yet.

    Raises:
        CheckpointError: All checkpoints are damaged (they are not changed), or a folder has the name of a
            checkpoint.
    """
    for path in (folder / LAST, folder / PREVIOUS, folder / BEST):
        if path.is_dir():
            raise CheckpointError(
                f"resume: '{path}' is a folder, but the run saves a file of this name; rename the folder"
            )
    there = [path for path in (folder / LAST, folder / PREVIOUS) if path.is_file()]
    if not there or (problem := _problem(there[0])) is None:
        return next(iter(there), None)
    last, *before = there
    if not before or _problem(before[0]) is not None:
        raise CheckpointError(
            f"resume: no checkpoint in '{folder}' can be read ({', '.join(path.name for path in there)}: "
            "damaged); put a good one there as last.ckpt, or train from scratch with resume=never"
        )
    say(f"{str(problem).partition(';')[0]}; the run resumes from {before[0].name}, the checkpoint before it")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        last.replace(folder / DAMAGED)
    return before[0]


def _problem(path: Path) -> CheckpointError | None:
    try:
        open_checkpoint(str(path), "resume")
    except CheckpointError as error:
        return error
    return None


def to_test(folder: Path) -> Checkpoint:
    """The best checkpoint or, if that is missing or damaged, the last one, so that a run can finish.

    Raises:
        CheckpointError: No checkpoint can be read; the message is about the best one.
    """
    problems = []
    for name in (BEST, LAST, PREVIOUS):
        try:
            return open_checkpoint(str(folder / name))
        except CheckpointError as error:
            problems.append(error)
    raise problems[0]


class Checkpoints(ModelCheckpoint):
    """Lightning's callback, which saves ``best.ckpt`` after a new best score and keeps it across a resume.

    This callback restores only the scores of a stored state, so no path in a file is followed, and the folder
    can be moved.

    Args:
        folder: The run's ``checkpoints``.
        say: Prints a line for the user.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        super().__init__(
            folder, Path(BEST).stem, monitor="val/psnr_y", mode="max", enable_version_counter=False
        )
        self.path = folder / BEST
        self.say = say

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scores, unless the best checkpoint is missing or damaged.

        Raises:
            CheckpointError: A score is not a number.
        """
        scores = state_dict["best_model_score"], state_dict["current_score"]
        if not all(score is None or (isinstance(score, Tensor) and score.numel() == 1) for score in scores):
            raise CheckpointError(
                "resume: the checkpoint's best score is not a number; use another checkpoint, or train from "
                "scratch with resume=never"
            )
        if scores[0] is None:
            return
        if _problem(self.path) is not None:
            how = f"damaged, and renamed to {DAMAGED}" if self.path.is_file() else "missing"
            with contextlib.suppress(FileNotFoundError):  # another process was faster
                self.path.replace(self.path.with_name(DAMAGED))
            self.say(f"resume: {BEST} is {how}; the next validation writes a new one")
            return
        self.best_model_path = self.kth_best_model_path = str(self.path)
        self.best_model_score, self.current_score = scores
        self.kth_value, self.best_k_models = scores[0], {str(self.path): scores[0]}


class _State(TypedDict):
    """Random state of one process, in types that ``weights_only`` accepts."""

    python: tuple[object, ...]
    numpy: tuple[object, ...]
    torch: Tensor
    cuda: Tensor | None


class RandomState(Callback):
    """Stores the random state of Python, NumPy and torch, of each process and device, in every checkpoint.

    Lightning does not store it, so dropout would draw different numbers after a resume. The state is restored
    when the training starts, after all other code, such as the data loader, has drawn random numbers. So this
    callback must be last, except for the callback that saves at a signal.
    """

    _states: list[_State] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Saved) -> None:
        """Store the state of every process; every process must call this."""
        own = _random_state(trainer.strategy.root_device)
        states = [own] * trainer.world_size
        if trainer.world_size > 1:
            distributed.all_gather_object(states, own)
        checkpoint["random_state"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Saved) -> None:
        """Keep the states until the training starts."""
        self._states = checkpoint.get("random_state")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore this process's state; a process that the saved run did not have keeps its seeded state."""
        if self._states is not None and trainer.global_rank < len(self._states):
            _set_random_state(self._states[trainer.global_rank], trainer.strategy.root_device)
        self._states = None


def _random_state(device: torch.device) -> _State:
    name, key, *rest = np.random.get_state()  # noqa: NPY002 - any code in a run may use it
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(key).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _set_random_state(state: _State, device: torch.device) -> None:
    try:
        # At any other position, NumPy would read beyond the end of the state.
        if not 0 <= state["numpy"][2] <= _NUMPY_WORDS:  # type: ignore[operator]
            raise ValueError("the position is outside the state")
        random.setstate(state["python"])
        np.random.set_state(state["numpy"])  # type: ignore[arg-type] # noqa: NPY002
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"].cpu(), device)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "resume: the checkpoint's random state is damaged; use another checkpoint, or train from "
            "scratch with resume=never"
        ) from error
