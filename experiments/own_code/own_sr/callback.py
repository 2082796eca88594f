"""A callback that records the norm of the weights."""

from pathlib import Path

import lightning
import torch


class WeightNorm(lightning.Callback):
    """Writes the norm of all weights after every validation.

    Args:
        path: A file in the run folder.
    """

    def __init__(self, *, path: str = "weight_norm.csv") -> None:
        self.path = Path(path)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Add a line: the step and the norm."""
        norm = torch.nn.utils.get_total_norm(pl_module.parameters())
        with self.path.open("a") as file:
            file.write(f"{trainer.global_step},{norm:.6g}\n")
