"""How a training ends: at its last step, because a callback stopped it, or because a signal came.

Lightning 2.6.6 ends with 0 after SIGTERM, writes a checkpoint of another name to another folder at Slurm's
signal, does not find it at a first start, and waits for other processes inside a signal handler, where all of
them can hang.
"""

from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Checkpoint, WeightAveraging
from torch import Tensor, distributed

from sr_lab.system.signals import Ended, Signals


class ValidateAtEnd(lightning.Callback):
    """Validates, and so saves, after the last step too, where the interval does not divide the steps."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Lightning validates before it obeys ``should_stop``."""
        if trainer.global_step >= trainer.max_steps > 0:
            trainer.should_stop = True


class StaysEnded(lightning.Callback):
    """A run stopped early stays stopped: resuming it goes straight to the test.

    Lightning forgets with the process that another callback has stopped the training.
    """

    _ended = False

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Store whether the training was stopped before its last step."""
        checkpoint["ended_early"] = trainer.should_stop and trainer.global_step < trainer.max_steps

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Remember it until the training starts."""
        self._ended = checkpoint.get("ended_early") is True

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Make no further step."""
        trainer.should_stop |= self._ended


class SaveWhenAsked(Checkpoint):
    """Saves ``last.ckpt`` after the step during which a signal came, and ends.

    Must be the last callback that saves. Processes agree on the step by an exchange on the CPU that runs during
    the next step. A validation that is due or running is postponed until the run resumes.

    Args:
        path: The checkpoint.
        signals: Listens for signals.
    """

    def __init__(self, path: Path, signals: Signals) -> None:
        self.path = path
        self.signals = signals
        self._group: distributed.ProcessGroup | None = None
        self._exchange: tuple[distributed.Work, Tensor] | None = None
        self._validation_due = False

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Spare several processes a wait for the device at every batch, by which Lightning would share SIGTERM."""
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = _nothing  # type: ignore[method-assign]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on signals wait for the end of a step; run the validation that was postponed."""
        self.signals.listen()  # in place of Lightning's handlers
        self.signals.waits = True
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        if self._validation_due:
            self._validation_due = False
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False
            trainer.validating = True
            loop.run()
            trainer.training = True

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Save and end, if a process was asked to; after the last step the validation comes first."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step >= trainer.max_steps > 0:
            return
        number = self._agreed(trainer)
        if number:
            interval = trainer.val_check_batch
            due = interval is not None and (batch_idx + 1) % interval == 0
            self._save(trainer, number, validation_due=due)

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, *_: object
    ) -> None:
        """Do not wait for the rest of the images, except where other processes wait for this one's share."""
        asked = self.signals.asked
        if asked is None or trainer.world_size > 1 or trainer.global_step >= trainer.max_steps > 0:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):  # put the weights back in place of their average
                callback.on_validation_epoch_end(trainer, pl_module)
        self._save(trainer, asked, validation_due=True)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Nothing is left to save; tell the other processes of a signal that came after the last exchange."""
        if self._group is not None:
            asked = torch.tensor(self.signals.asked or 0)
            distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self._group)
            self.signals.asked = int(asked) or None
        self.signals.end_if_asked()

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take the place of Lightning's handlers in the test too."""
        self.signals.listen()

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Store whether a validation was postponed, and the counts as if it had not begun."""
        checkpoint["validation_due"] = self._validation_due
        if not self._validation_due:
            return
        counts: dict[str, dict[str, dict[str, int]]] = checkpoint["loops"]["fit_loop"]  # type: ignore[index]
        trained = counts["epoch_loop.batch_progress"]
        for count in (trained["total"], trained["current"]):
            count["completed"] = count["ready"]
        if trainer.validating:
            validated = counts["epoch_loop.val_loop.batch_progress"]
            for key, number in validated["current"].items():
                validated["total"][key] -= number
                validated["current"][key] = 0

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, object]
    ) -> None:
        """Remember a postponed validation."""
        self._validation_due = bool(checkpoint.get("validation_due", False))

    def _save(self, trainer: lightning.Trainer, number: int, *, validation_due: bool) -> None:
        self._validation_due = validation_due
        trainer.save_checkpoint(self.path)
        raise Ended(number)

    def _agreed(self, trainer: lightning.Trainer) -> int:
        """The signal at which all processes end now; 0 if none had heard one at the step before."""
        own = self.signals.asked or 0
        if self._group is None:
            return own
        running, asked = self._exchange, torch.tensor(own)
        if running is not None:
            running[0].wait()
            if running[1]:
                return int(running[1])
        work = distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None
        self._exchange = (work, asked)
        return 0


def _nothing() -> None:
    """Stands in for a method of Lightning."""
