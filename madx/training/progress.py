"""The progress of a job on the screen: a bar in a terminal, a line now and then elsewhere."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from madx.files.streams import MESSAGES
from madx.outside import visible
from madx.training.cpu_contention import CpuContention

#: seconds between two lines when the output is no terminal
LINE_SECONDS = 15.0


class ProgressView:
    """Step, loss, tokens per second and time left of a run; a context manager.

    Args:
        title: name of the run.
        steps: number of steps, or of pieces of work.
        start: how many of them are done already.
        shown: False: nothing is printed.
    """

    def __init__(self, title: str, steps: int, *, start: int = 0, shown: bool = True):
        self.title, self.steps, self.start = visible(title), steps, start
        self.bar: Progress | None = None
        self.task = TaskID(0)
        self.console = Console(file=MESSAGES, markup=False, highlight=False, emoji=False) if shown else None
        self.contention = CpuContention() if shown else None
        self.began = self.last_line = time.monotonic()
        self.tokens, self.done = 0, start

    def __enter__(self) -> "ProgressView":
        if self.console is not None and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self.console,
                transient=False,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.steps, completed=self.start, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, step: int, *, loss: float, tokens: int, score: str = "") -> None:
        """Show that `step` steps are done, with the running loss, the tokens of the last step and the last score."""
        self.tokens += tokens
        seconds = time.monotonic() - self.began
        speed = self.tokens / max(seconds, 1e-9)
        left = seconds / max(step - self.start, 1) * (self.steps - step)
        note = f"loss {loss:.3f}  {speed:,.0f} tokens/s" + (f"  {score}" if score else "")
        self._show(step, note, f"step {step}/{self.steps}  {note}  {left:,.0f} s left", always=step == self.steps)

    def count(self, note: str) -> None:
        """Show that one more piece of work is done, for jobs that have no loss."""
        self.done += 1
        self._show(self.done, note, f"{self.done}/{self.steps}  {note}")

    def _show(self, done: int, note: str, line: str, *, always: bool = False) -> None:
        """Move the bar, or print a line if the last one is old enough or `always`; and a notice about busy cores."""
        if self.console is None:
            return
        if self.contention is not None and (notice := self.contention.notice()) is not None:
            self.console.print(notice)
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=visible(note))
        elif always or time.monotonic() - self.last_line > LINE_SECONDS:
            self.last_line = time.monotonic()
            self.console.print(f"{self.title}: {visible(line)}")
