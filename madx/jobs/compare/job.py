"""A comparison of module types on a base and data of one's own: what does each cost, and what does it give?

It measures the axes of the survey by Pfeiffer et al. 2023 (arXiv:2302.11529), storage, training memory, training
compute,
accuracy and inference overhead, for any set of module types and for the baselines: all weights, the upper layers, the
head alone.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from madx.base import Base
from madx.composition import Stack
from madx.engine import Engine
from madx.errors import ConfigError, StoreError
from madx.files.places import user_path
from madx.jobs.common import check_folders, info_of, open_base, told_failure, versions, weights_of
from madx.jobs.compare import measure
from madx.jobs.compare.settings import Compare, jobs_of
from madx.jobs.keywords import takes_keywords
from madx.jobs.reuse import content_name, file_marks, identity, train_if_missing
from madx.jobs.train_task import TrainTask
from madx.jobs.train_task.data import read_data, task_over
from madx.report import save as save_report
from madx.results.comparison import Candidate, Comparison
from madx.store import Store
from madx.tasks.token_classification import TokenClassification
from madx.training.progress import ProgressView
from madx.training.sparse.selections import SELECTIONS

log = logging.getLogger("madx")


@dataclass
class CompareResult:
    """The comparison and its files; the names of the modules that were trained for it, and of those used again."""

    comparison: Comparison
    folder: Path
    files: list[Path]
    trained: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)


@takes_keywords(Compare)
def compare(settings: Compare) -> CompareResult:
    """Train, store and measure every candidate.

    The settings come as `Compare` or as keywords of the same names. Raises ConfigError for faults of the settings and
    DataError for the data, before anything is trained; an error of a single candidate is recorded with it.
    """
    if PartialState().num_processes > 1:
        raise ConfigError("compare measures one process: start it without torchrun or accelerate launch.")
    jobs = jobs_of(settings)
    check_folders(user_path(settings.run))
    base = open_base(settings)
    data, labels = read_data(next(iter(jobs.values())))  # the same for all, but for its batches
    cut: dict[tuple[int | None, ...], TokenClassification] = {}
    tasks: dict[str, TokenClassification] = {}
    for name, job in jobs.items():
        # sentences are tokenised once for all candidates with the same windows and batches
        how = (job.max_length, job.batch_size, job.tokens_per_batch, job.micro_batch)
        if how not in cut:
            cut[how] = task_over(job, base, labels, data[settings.language], seed=job.seeds[0])
        tasks[name] = cut[how]
    return _Run(settings, jobs, base, tasks).go()


class _Run:
    def __init__(
        self, settings: Compare, jobs: dict[str, TrainTask], base: Base, tasks: dict[str, TokenClassification]
    ):
        self.settings, self.jobs, self.base, self.tasks = settings, jobs, base, tasks
        self.bases = {"fp32": base}  # by number format: a candidate is measured over the one that it trains over
        self.task = next(iter(tasks.values()))  # its development data and its metric are those of all
        self.store, self.folder = Store(settings.store), user_path(settings.run)
        self.found: dict[str, dict[str, Any]] = {name: {} for name in jobs}
        self.failed: dict[str, str] = {}
        self.trained: list[str] = []
        self.reused: list[str] = []

    def go(self) -> CompareResult:
        """Train, then measure, then write."""
        total = len(self.jobs) * (2 + self.settings.rounds) + self.settings.rounds
        for name in self.jobs:
            self._try(name, self._train)
        with ProgressView("measure", total, shown=self.settings.progress) as view:
            for name in self.jobs:
                self._try(name, self._memory)
                view.count(f"{name}: memory")
                self._try(name, self._flops)
                view.count(f"{name}: operations")
            for _ in range(self.settings.rounds):
                for name in self.jobs:
                    self._try(name, self._seconds)
                    view.count(f"{name}: seconds a step")
            self._inference(view)
        candidates = tuple(
            Candidate(name=name, failure=self.failed.get(name, ""), **self.found[name]) for name in self.jobs
        )
        settings, names = self.settings, (self.settings.data, self.settings.dev)
        comparison = Comparison(
            candidates,
            settings.task,
            self.task.metric,
            self.base.label,
            settings.note,
            versions=versions(),
            data={path: file_marks(path)[0] for path in names},
            device=str(self.base.device),
            scoring=self.task.scoring if self.task.inventory is None else None,
        )
        return CompareResult(comparison, self.folder, save_report(comparison, self.folder), self.trained, self.reused)

    def _try(self, name: str, what: Callable[[str, TrainTask, dict[str, Any]], None]) -> None:
        """Do one thing for one candidate, unless it failed before; an error is recorded and the others go on."""
        if name in self.failed:
            return
        try:
            what(name, self.jobs[name], self.found[name])
        except Exception as error:  # out of memory with all weights trainable must not lose the adapters' figures
            self.failed[name] = told_failure(name, error)

    def _train(self, name: str, job: TrainTask, found: dict[str, Any]) -> None:
        """Train a module for each seed, unless the store holds it: accuracy, storage, size."""
        under = job.module_of(str(job.language))
        weights = weights_of(self.store, under) if under else None
        found["modules"], found["scores"] = [], {}
        for seed in job.seeds:
            one = job.model_copy(update={"seeds": [seed]})
            wanted = identity(one, self.base, seed=seed, under=weights)
            stored_as = content_name(f"{job.task}-{job.language}", wanted, seed=seed, under=under)
            one = one.model_copy(update={"name": stored_as, "run": str(self.folder / "runs" / stored_as)})
            trained = train_if_missing(self.store, one, stored_as, wanted)
            (self.trained if trained else self.reused).append(stored_as)
            row, training = self.store.show(stored_as), info_of(self.store, stored_as).training
            scores: Any = training.get("scores", {}).get("dev", {})
            if "steps" not in training or self.task.metric not in scores:
                raise StoreError(
                    f"The record of the module {stored_as!r} lacks its steps, or its {self.task.metric} on "
                    f"development data. Remove it (madx modules remove {stored_as}) and compare again: it is then "
                    "trained anew."
                )
            if not found["modules"] and row.weights is not None:  # of the first seed, whose inference is timed too
                found |= {"storage": row.bytes, "parameters": row.weights.parameters, "steps": training["steps"]}
            found["modules"].append(stored_as)
            found["scores"][seed] = scores[self.task.metric]

    def _steps(self, job: TrainTask) -> int:
        """Steps to measure, no fewer than the candidate's selection needs."""
        return max(
            self.settings.measured_steps, SELECTIONS.get(job.train.sparse.selection)(job.train.sparse).least_steps()
        )

    def _memory(self, name: str, job: TrainTask, found: dict[str, Any]) -> None:
        found["memory"] = measure.training_memory(job, steps=self._steps(job))

    def _flops(self, name: str, job: TrainTask, found: dict[str, Any]) -> None:
        job, base = measure.as_trained(job, self.bases)
        found["flops"] = measure.training_flops(
            job, base, self.tasks[name], measured=self._steps(job), steps=found["steps"]
        )

    def _seconds(self, name: str, job: TrainTask, found: dict[str, Any]) -> None:
        job, base = measure.as_trained(job, self.bases)
        found.setdefault("seconds", []).append(
            measure.seconds_per_step(job, base, self.tasks[name], measured=self._steps(job))
        )

    def _inference(self, view: ProgressView) -> None:
        """Time the bare base and every trained module of the first seed; each round gives a ratio to its own base."""
        given = measure.inference_batches(
            self.task, self.base, count=self.settings.inference_batches, tokens=self.settings.inference_tokens
        )
        under = [self.settings.language_module] if self.settings.language_module else []
        engine = Engine(self.base)

        def ratio(name: str, job: TrainTask, found: dict[str, Any]) -> None:
            module = found["modules"][0]
            if module not in engine.modules:
                engine.attach(self.store.load(module, self.base))
            with engine.using(Stack(*under, module)):
                measure.inference_seconds(engine, given[:1])  # the first pass after a swap reads cold weights
                seconds = measure.inference_seconds(engine, given)
            found.setdefault("inference", []).append(seconds / bare)

        try:
            for name in under:
                engine.attach(self.store.load(name, self.base))
            for _ in range(self.settings.rounds):
                measure.inference_seconds(engine, given[:1])
                bare = measure.inference_seconds(engine, given)
                for name in self.jobs:
                    self._try(name, ratio)
                view.count("inference")
        finally:
            engine.close()
