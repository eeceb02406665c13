"""What a user sees while a run goes on: a bar in a terminal, a line now and then elsewhere."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from madx.training.cpu_contention import Crowding

#: seconds between two lines when the output is no terminal
LINE_SECONDS = 15.0


class ProgressView:
    """Step, loss, tokens per second and time left of a run. Use as a context manager; `shown=False` prints nothing."""

    def __init__(self, title: str, steps: int, *, start: int = 0, shown: bool = True):
        self.title, self.steps, self.start = title, steps, start
        self.bar, self.task = None, None
        self.console = Console(file=sys.stderr) if shown else None
        self.crowding = Crowding() if shown else None
        self.began = self.said = time.monotonic()
        self.tokens, self.done = 0, start

    def __enter__(self) -> "ProgressView":
        if self.console is not None and self.console.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
            ]
            self.bar = Progress(
                *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console, transient=False
            )
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.steps, completed=self.start, note="")
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self, step: int, *, loss: float, tokens: int, score: str = "") -> None:
        """After `step` steps: the running loss, tokens seen in the last step, and the last score as text."""
        self._look_around()
        self.tokens += tokens
        now = time.monotonic()
        speed = self.tokens / max(now - self.began, 1e-9)
        note = f"loss {loss:.3f}  {speed:,.0f} tokens/s" + (f"  {score}" if score else "")
        if self.bar is not None:
            self.bar.update(self.task, completed=step, note=note)
        elif self.console is not None and (now - self.said > LINE_SECONDS or step == self.steps):
            self.said = now
            left = (now - self.began) / max(step - self.start, 1) * (self.steps - step)
            self.console.print(f"{self.title}: step {step}/{self.steps}  {note}  {left:,.0f} s left", highlight=False)

    def count(self, note: str) -> None:
        """One more piece of work done, for jobs that have no loss."""
        self._look_around()
        self.done = self.done + 1
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=note)
        elif self.console is not None and time.monotonic() - self.said > LINE_SECONDS:
            self.said = time.monotonic()
            self.console.print(f"{self.title}: {self.done}/{self.steps}  {note}", highlight=False)

    def _look_around(self) -> None:
        if self.crowding is not None and (text := self.crowding.notice()) is not None:
            self.console.print(text, highlight=False)
