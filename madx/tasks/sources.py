"""One task with several sources: each step takes a batch of one source, under a composition of that source.

Multi-source training (Ansell et al. 2021): several languages, each with its labelled data and its frozen language
module. Cycling (Parović et al. 2023): the modules of several languages take turns under the same labelled data, so that
a task module is trained with the modules of its target languages. Both are a table with a row for each step: the
source, the number of batches it gave before, and the composition.

A source with s_i batches gets n_i of all N = sum of s_i steps, where n_i is in proportion to s_i^(1/temperature): a
temperature of 1 is in proportion to the sizes, a large one gives all sources the same number. The k-th batch of a
source stands at the time (k + u) / n_i, with u in 0..1 drawn by the seed, so that the sources are evenly mixed. The
table repeats after N steps.

>>> turns([2, 1], seed=0)[0].tolist().count(0)
2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from torch import Tensor

from madx.composition import Composition
from madx.engine import Engine
from madx.errors import ConfigError
from madx.tasks.base import Batch, Task


@dataclass(frozen=True)
class Source:
    """A source of batches.

    task: the task over the data of one language. compositions: those that take turns for its batches.
    steps: the number of its batches in the run, before the temperature changes it.
    """

    name: str
    task: Task
    compositions: tuple[Composition, ...]
    steps: int


def turns(sizes: Sequence[int], *, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return for each of the N steps the source and the number of batches it gave before, int64 `(N,)` each.

    sizes: the batches of each source; temperature: see above.
    """
    share = np.asarray(sizes, dtype=np.float64) ** (1 / temperature)
    wanted = share / share.sum() * sum(sizes)
    counts = np.maximum(1, np.floor(wanted).astype(np.int64))
    for source in np.argsort(counts - wanted, kind="stable")[: max(0, sum(sizes) - int(counts.sum()))]:
        counts[source] += 1
    chance = np.random.default_rng(seed)
    times = np.concatenate([(np.arange(n) + chance.random(n)) / n for n in counts])
    order = np.argsort(times, kind="stable")
    which = np.repeat(np.arange(len(counts)), counts)[order]
    before = np.concatenate([np.arange(n) for n in counts])[order]
    return which, before


class Sources(Task):
    """Several sources of one task, trained together.

    The figures are means over all sources and compositions, so that the weights that are kept are good under each of
    them. The metric of each source and composition is among the figures, too.

    Raises ConfigError if there is no source, or one without batches or compositions.
    """

    def __init__(self, sources: Sequence[Source], *, temperature: float = 1.0, seed: int = 0):
        if not sources or not all(source.compositions and source.steps > 0 for source in sources):
            raise ConfigError("Training needs at least one source, and each source needs batches and a composition.")
        self.sources = list(sources)
        first = sources[0].task
        self.metric, self.higher_is_better = first.metric, first.higher_is_better
        self.swaps = len({c for source in sources for c in source.compositions}) > 1
        self._which, self._before = turns([s.steps for s in sources], temperature=temperature, seed=seed)
        self._counts = np.bincount(self._which, minlength=len(sources))

    @property
    def steps(self) -> int:
        """The number N of batches of all sources in the run."""
        return len(self._which)

    @property
    def shares(self) -> np.ndarray:
        """The share (0..1) of the steps that each source gets, in order."""
        found: np.ndarray = self._counts / self._counts.sum()
        return found

    def turn(self, step: int) -> tuple[Source, int]:
        """Return the source of a step, and the number of batches that it gave before."""
        rounds, place = divmod(step, len(self._which))
        number = int(self._which[place])
        return self.sources[number], int(rounds * self._counts[number] + self._before[place])

    def composition(self, step: int) -> Composition:
        """Return the composition of a step."""
        source, before = self.turn(step)
        return source.compositions[before % len(source.compositions)]

    def activate(self, engine: Engine, step: int) -> None:
        engine.activate(self.composition(step))

    def batches(self, step: int, *, process_index: int = 0, process_count: int = 1) -> list[Batch]:
        source, before = self.turn(step)
        return source.task.batches(before, process_index=process_index, process_count=process_count)

    def count(self, batch: Batch) -> int:
        return self.sources[0].task.count(batch)

    def scores(self, engine: Engine, batch: Batch) -> Tensor:
        return self.sources[0].task.scores(engine, batch)

    def loss(self, engine: Engine, batch: Batch) -> Tensor:
        return self.sources[0].task.loss(engine, batch)

    def evaluate(self, engine: Engine) -> dict[str, float]:
        """Return the means of all figures, and the metric of each source, or of each of its compositions."""
        found, own = [], {}
        for source in self.sources:
            for composition in source.compositions:
                with engine.using(composition):
                    found.append(source.task.evaluate(engine))
                label = source.name + (f" under {composition}" if len(source.compositions) > 1 else "")
                own[f"{self.metric} {label}"] = found[-1][self.metric]
        return {key: fmean(scores[key] for scores in found) for key in found[0]} | own
