"""One run of the training loop as a value: its length, its folder, what identifies it, and the result it leaves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from madx.training.settings import TrainSettings

#: settings that do not decide which weights a run ends with
UNIMPORTANT = {
    "progress",
    "tensorboard",
    "checkpoint_every",
    "stop_diverged",
    "cache_frozen",
    "cache_memory_gb",
    "cache_disk_gb",
}


@dataclass(frozen=True)
class Run:
    """The length of a run, the folder of its state and the settings that identify it.

    Args:
        steps: number of optimiser steps.
        seed: decides the order of the data, the masks, dropout and all else that is random.
        folder: where the checkpoint is kept; None: no checkpoint is written.
        resume: whether the run goes on from the checkpoint in its folder, if there is one.
        identity: settings that identify the run beside those of training; they are compared when it is resumed.
        title: a name for the progress display.
    """

    steps: int
    seed: int
    folder: Path | None = None
    resume: bool = True
    identity: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""

    def inside(self, folder: str, **identity: Any) -> "Run":
        """This run in a folder inside its own, with more in its identity."""
        where = self.folder / folder if self.folder is not None else None
        return replace(self, folder=where, identity={**self.identity, **identity})


@dataclass
class TrainResult:
    """The scores and the history of a run.

    Attributes:
        best: scores of the best evaluation, or of the mean of the last weights.
        best_step: the step at which they were reached.
        history: loss and scores of each evaluation.
        steps: length of the run.
        seconds, tokens: of this process since the beginning of the run, those before a resumption included.
        resumed_from: the step of the checkpoint from which the run went on; None: it began anew.
    """

    best: dict[str, float] = field(default_factory=dict)
    best_step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    resumed_from: int | None = None


def identity_of(run: Run, settings: TrainSettings, **more: Any) -> dict[str, Any]:
    """Everything that decides which weights a run ends with; a checkpoint is only resumed where all of it agrees."""
    own = {"steps": run.steps, "seed": run.seed}
    return {**run.identity, **more, **own, **settings.model_dump(exclude=UNIMPORTANT)}
