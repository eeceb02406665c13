"""Module types and baselines beside each other on five axes: storage, training memory, training compute, accuracy, and
inference overhead (the axes of Pfeiffer et al. 2023, arXiv:2302.11529). Plain data: no engine, no model, no
rendering."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from madx.data.labelled.spans import Scoring
from madx.metrics.significance import seed_difference


@dataclass(frozen=True)
class Candidate:
    """The measurements of one candidate; None or empty where it had failed before they were made.

    parameters: the number of trained values.
    storage: bytes of the stored module.
    memory: bytes, the peak in training above the loaded base.
    flops: operations of a whole training of `steps` steps.
    seconds: of a training step, one value for each round.
    scores: seed -> score on the development data.
    inference: time over the bare base's, one value for each round.
    modules: names in the store.
    failure: the reason why the candidate failed, or empty.
    """

    name: str
    parameters: int | None = None
    storage: int | None = None
    memory: int | None = None
    flops: float | None = None
    steps: int | None = None
    seconds: Sequence[float] = ()
    scores: dict[int, float] = field(default_factory=dict)
    inference: Sequence[float] = ()
    modules: Sequence[str] = ()
    failure: str = ""

    @property
    def mean(self) -> float | None:
        """The mean score over the seeds."""
        return fmean(self.scores.values()) if self.scores else None

    @property
    def sd(self) -> float | None:
        """The standard deviation over the seeds, with n - 1; None for one seed."""
        return stdev(self.scores.values()) if len(self.scores) > 1 else None


def spread(values: Sequence[float]) -> tuple[float, float, float] | None:
    """(median, first quartile, third quartile); None without values."""
    if not values:
        return None
    low, high = np.quantile(np.asarray(values, dtype=float), [0.25, 0.75])
    return median(values), float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """The candidates in their order.

    task, base: names. device: where it was measured.
    metric: the figure of the task that `Candidate.scores` holds.
    note: a remark that every report prints.
    scoring: the reading of an I- that continues nothing, for a task whose scores are of spans.
    versions: library -> version. data: file -> sha256.
    """

    candidates: tuple[Candidate, ...]
    task: str
    metric: str
    base: str
    note: str
    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    device: str = ""
    scoring: Scoring | None = None

    def best(self) -> Candidate | None:
        """The candidate with the highest mean score."""
        scored = [c for c in self.candidates if c.scores]
        return max(scored, key=lambda c: fmean(c.scores.values())) if scored else None

    def like_the_best(self) -> set[str]:
        """Names of the candidates whose scores over seeds cannot be told apart from those of the best."""
        best, found = self.best(), set()
        for c in self.candidates:
            if best is None or c is best:
                continue
            seeds = [s for s in c.scores if s in best.scores]
            if seeds and seed_difference([best.scores[s] for s in seeds], [c.scores[s] for s in seeds]).noise:
                found.add(c.name)
        return found

    def failures(self) -> list[str]:
        """A line for every candidate that failed."""
        return [f"{c.name}: {c.failure}" for c in self.candidates if c.failure]

    def as_dict(self) -> dict[str, Any]:
        """Everything that was measured, every round of it, and the figures of the tables; for JSON."""
        rows = [
            asdict(c)
            | {"mean": c.mean, "sd": c.sd, "seconds_median": spread(c.seconds), "inference_median": spread(c.inference)}
            for c in self.candidates
        ]
        head = {key: value for key, value in asdict(self).items() if key != "candidates"}
        return {"format": "madx comparison", "version": 1, **head, "candidates": rows}
