"""A learning rate that rises, stays and falls."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Trapezoid(LambdaLR):
    """Rises linearly from zero, stays at the optimizer's learning rate, and falls linearly to zero.

    Args:
        optimizer: Given by sr_lab.
        steps: Number of steps of the training run.
        rise: Share of the steps in which the learning rate rises.
        fall: Share of the steps in which the learning rate falls.
    """

    def __init__(self, optimizer: Optimizer, *, steps: int, rise: float = 0.05, fall: float = 0.3) -> None:
        self.steps = steps
        self.rise = rise
        self.fall = fall
        super().__init__(optimizer, self.factor)

    def factor(self, step: int) -> float:
        """The learning rate of a step, as a share of the optimizer's."""
        done = (step + 1) / self.steps
        return min(1.0, done / self.rise, max(0.0, (1 - done) / self.fall))
