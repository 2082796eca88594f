"""Progress of a long piece of work: a bar on a terminal, or one line a minute in a pipe or a log file."""

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from sr_lab.reporting.terminal import Terminal

_LEAST_BAR = 10  # characters that the bar keeps next to its text
_REDRAW = 0.5  # seconds between two changes of the bar
_LINE = 60.0  # seconds between two lines where there is no terminal


class Progress:
    """Shows how much of a piece of work is done, and the time left; a context manager.

    Args:
        total: Amount of work; may be changed later.
        unit: What is counted, e.g. ``steps``.
        done: Amount that was done before, e.g. by an interrupted run.
        share: Finished share of the work, if its pieces differ in size.
        console: Where it is shown, by default stderr.
        transient: Whether a bar disappears at the end.
    """

    def __init__(
        self,
        total: float,
        unit: str,
        *,
        done: float = 0.0,
        share: float | None = None,
        console: Console | None = None,
        transient: bool = False,
    ) -> None:
        self.total = total
        self.unit = unit
        self.console = console or Terminal(stderr=True, highlight=False)
        self._before = done
        self._share_before = share
        self._is_drawn = self.console.is_terminal and not self.console.is_dumb_terminal
        text = TextColumn("{task.description}", markup=False)
        self._bar = Bar(
            BarColumn(None),
            text,
            console=self.console,
            transient=transient,
            expand=True,
            disable=not self._is_drawn,
        )

    def __enter__(self) -> Self:
        self._started = self._shown = time.monotonic()
        self._task = self._bar.add_task("", total=self.total)
        if self._is_drawn:
            self.update(self._before, share=self._share_before)
            self._shown -= _REDRAW  # so that even short work shows its first step
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._bar.stop()

    @property
    def is_due(self) -> bool:
        """Whether it is time for another `update`; until then, its facts need not be computed."""
        return time.monotonic() - self._shown >= (_REDRAW if self._is_drawn else _LINE)

    def update(self, done: float, *facts: str, share: float | None = None) -> None:
        """Show how much is done; where there is no terminal, only if a minute has passed.

        Args:
            done: Amount of finished work.
            facts: Further facts, the most important first; a narrow terminal leaves out the last ones.
            share: Finished share of the work, if its pieces differ in size.
        """
        now = time.monotonic()
        if not (self._is_drawn or self.is_due):
            return
        self._shown = now
        parts = [f"{math.floor(done)}/{self.total:.0f} {self.unit}"]
        before, share = self._share_before, done / self.total if share is None else share
        begun = self._before / self.total if before is None else before
        if done >= self.total:
            parts.append(f"in {duration(now - self._started)}")
        elif share > begun:
            left = (1 - share) * (now - self._started) / (share - begun)
            parts.append(f"{duration(left)} left")
        parts += facts
        if not self._is_drawn:
            self.console.print(Text(", ".join(parts)), soft_wrap=True)
            return
        room = self.console.width - _LEAST_BAR - 1
        while len(parts) > 1 and Text("  ".join(parts)).cell_len > room:
            parts.pop()
        self._bar.update(self._task, completed=done, total=self.total, description="  ".join(parts))


def duration(seconds: float) -> str:
    """``0:12``, ``4:59:59`` or ``2 d 3 h``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
