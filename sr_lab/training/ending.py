"""How a training run ends (after its last step, by a callback or at a signal) and where it resumes.

Lightning 2.6.6 exits with 0 after SIGTERM. On Slurm's signal, Lightning writes a checkpoint under another
name to another folder, and ``ckpt_path="hpc"`` fails on the first start, when there is no checkpoint.
Lightning waits for other processes inside a signal handler, where all of them can hang.
"""

from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor, distributed

from sr_lab.system.interrupts import Ended
from sr_lab.system.signals import Signals
from sr_lab.training.lit_module import Saved


class Ending(Callback):
    """Makes a run validate, and therefore save, after its last step, and keeps a stopped run stopped.

    Lightning does not store that another callback has stopped the training. With this callback, resuming a
    stopped run goes straight to the test.
    """

    _stopped = False

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        """Stop after the last step; Lightning first validates, even if no validation is due."""
        if trainer.global_step >= trainer.max_steps > 0:
            trainer.should_stop = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Saved) -> None:
        """Store whether the training was stopped before its last step."""
        checkpoint["ended_early"] = trainer.should_stop and trainer.global_step < trainer.max_steps

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Saved) -> None:
        """Until the training starts, remember whether the saved run was stopped."""
        self._stopped = checkpoint.get("ended_early") is True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take no further step in a stopped run."""
        trainer.should_stop |= self._stopped


class SaveLast(Checkpoint):
    """Saves ``last.ckpt`` after each validation, and after the step during which a signal arrived.

    Lightning's ``save_last`` saves only after a new best score, so all work on a plateau would be lost. After
    a signal the training ends, but finishes a running validation first. Processes agree on the step by an
    exchange on the CPU, which runs during the next step. This must be the last callback that saves.

    Args:
        path: The checkpoint.
        signals: Listens for signals.
    """

    def __init__(self, path: Path, signals: Signals) -> None:
        self.path = path
        self.signals = signals
        self._group: distributed.ProcessGroup | None = None
        self._exchange: tuple[distributed.Work, Tensor] | None = None
        self._ends = 0  # the signal that ends the training; 0 if none

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Turn off Lightning's sharing of SIGTERM, which waits for the device at every batch."""
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on, let signals wait for the end of a step."""
        self.signals.listen()  # in place of Lightning's handlers
        self.signals.waits = True
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Save and end if a process was asked to; if a validation is due, both happen after it instead."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step >= trainer.max_steps > 0:
            return
        self._ends = self._agreed()
        validates = trainer.val_check_batch and (batch_idx + 1) % trainer.val_check_batch == 0
        if self._ends and not validates:
            self._save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, and end the training if a signal has arrived in the meantime."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            if self._group is None:  # several processes agree at the next step
                self._ends = self.signals.asked or 0
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        if self._ends:
            raise Ended(self._ends)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Share a signal that arrived after the last exchange; the last checkpoint is already saved."""
        if self._group is not None:
            asked = torch.tensor(self.signals.asked or 0)
            distributed.all_reduce(asked, distributed.ReduceOp.MAX, group=self._group)
            self.signals.asked = int(asked) or None
        self.signals.end_if_asked()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's signal handlers during the test too."""
        self.signals.listen()

    def _agreed(self) -> int:
        """The signal that now ends all processes; 0 if no process had received one by the previous step."""
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
