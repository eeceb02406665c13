"""The field's five axes, measured: which module type on this base, with this data, for this price?

Storage, training memory, training compute, accuracy and inference overhead (the axes of the survey by Pfeiffer et al. 2023,
arXiv:2302.11529), for any set of module types and for the baselines: all weights, the upper layers, the head alone.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import Field

from madx.base import Base
from madx.composition import Stack
from madx.config import faults_of
from madx.engine import Engine
from madx.errors import ConfigError, MadxError, did_you_mean
from madx.jobs.common import JobSettings, check_components, check_language, layered, open_base, told_failure, versions
from madx.jobs.compare import measure
from madx.jobs.matrix.settings import OWN
from madx.jobs.reuse import content_name, file_marks, identity, train_if_missing
from madx.jobs.train_task import Columns, TrainTask, read_data, task_over
from madx.report import save as save_report
from madx.results.comparison import Candidate, Comparison
from madx.store import Store
from madx.tasks import TASKS
from madx.tasks.token_classification import TokenClassification
from madx.training.progress import ProgressView
from madx.training.sparse.selections import SELECTIONS

log = logging.getLogger("madx")

EVERYTHING = {"selection": "everything"}
#: name -> settings of train-task; rates as their papers or common use have them, to be tuned on real data
CANDIDATES: dict[str, dict[str, Any]] = {
    "full": {"components": "full", "train": {"learning_rate": 2e-5, "sparse": EVERYTHING}},
    "top_layers": {"components": "top_layers", "train": {"learning_rate": 2e-5, "sparse": EVERYTHING}},
    "head_only": {"components": "head_only", "train": {"learning_rate": 1e-3}},
    "bitfit": {"components": "bitfit", "train": {"learning_rate": 1e-3, "sparse": EVERYTHING}},
    "pfeiffer": {"components": "pfeiffer", "train": {"learning_rate": 1e-4}},
    "houlsby": {"components": "houlsby", "train": {"learning_rate": 1e-4}},
    "lt_sft": {"components": "lt_sft_task", "train": {"learning_rate": 5e-5}},
}


class Compare(JobSettings):
    """Settings of `madx compare`."""

    language: str = Field(description="Language of the labelled data, e.g. eng.")
    data: str = Field(description="Training data: a CoNLL file, or datasets:NAME[:CONFIG]:SPLIT.")
    dev: str = Field(description="Development data, on which accuracy is measured.")
    task: str = Field(default="ner", description="The task: one of `madx tasks`.")
    columns: Columns = Field(default=Columns(), description="How the files are read.")
    language_module: str | None = Field(
        default=None, description="Stored language module under every candidate; null: none."
    )
    candidates: dict[str, dict[str, Any]] = Field(
        default=CANDIDATES,
        min_length=1,
        description="Name -> settings of train-task: components, train.learning_rate, ...",
    )
    only: list[str] | None = Field(
        default=None, min_length=1, description="Names of the candidates to take; null: all."
    )
    training: dict[str, Any] = Field(
        default={"epochs": 3}, description="Settings of train-task for all candidates; each candidate's own go first."
    )
    seeds: list[int] = Field(
        default=[1, 2, 3], min_length=1, description="Seeds of the trainings that accuracy is measured on."
    )
    measured_steps: int = Field(
        default=4, ge=1, description="Steps over which memory, operations and seconds are measured, at least."
    )
    rounds: int = Field(default=9, ge=3, description="Rounds of every timing; in each all candidates have their turn.")
    inference_batches: int = Field(
        default=4, ge=1, description="Batches of the development data that inference is timed on."
    )
    inference_tokens: int = Field(default=1024, ge=16, description="Tokens in such a batch, padding included.")
    run: str = Field(default="runs/compare", description="Folder of the runs and of the results.")
    progress: bool = Field(default=True, description="Show progress bars.")
    note: str = Field(default="", description="A remark printed in every report.")


@dataclass
class CompareResult:
    """The comparison, its files, and which modules were trained for it."""

    comparison: Comparison
    folder: Path
    files: list[Path]
    trained: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)


def compare(settings: Compare) -> CompareResult:
    """Train, store and measure every candidate. Raises ConfigError for faults of the settings and DataError for the data,
    before anything is trained; what goes wrong with a single candidate is recorded with it."""
    if PartialState().num_processes > 1:
        raise ConfigError("compare measures one process: start it without torchrun or accelerate launch.")
    jobs = jobs_of(settings)
    base = open_base(settings)
    data, labels = read_data(next(iter(jobs.values())))  # of all: what differs is how it is cut into batches
    cut: dict[tuple, TokenClassification] = {}
    tasks = {}
    for name, job in jobs.items():
        # sentences are split into pieces once for all candidates that cut them alike
        how = (job.max_length, job.batch_size, job.tokens_per_batch, job.micro_batch)
        if how not in cut:
            cut[how] = task_over(job, base, labels, data[settings.language], seed=job.seeds[0])
        tasks[name] = cut[how]
    return _Run(settings, jobs, base, tasks).go()


def jobs_of(settings: Compare) -> dict[str, TrainTask]:
    """The training job of every candidate. Raises ConfigError that lists all faults."""
    TASKS.get(settings.task)
    check_language(settings.language)
    jobs, faults = {}, []
    if len(set(settings.seeds)) < len(settings.seeds):
        faults.append(f"seeds {settings.seeds}: each seed once")
    stray = [name for name in settings.only or () if name not in settings.candidates]
    faults += [f"only: no candidate {name!r}; {did_you_mean(name, settings.candidates)}" for name in stray]
    for name in [n for n in settings.candidates if settings.only is None or n in settings.only]:
        given = settings.candidates[name]
        merged = layered({"train": {"progress": settings.progress}}, settings.training, given)
        faults += [
            f"candidates.{name}.{key}: compare sets it itself; leave it out" for key in merged if key in OWN["task"]
        ]
        fixed = {
            key: getattr(settings, key)
            for key in ("base", "revision", "device", "store", "language", "data", "dev", "task")
        }
        fixed |= {
            "language_module": settings.language_module,
            "seeds": settings.seeds,
            "overwrite": True,
            "columns": settings.columns.model_dump(mode="json"),
        }
        job, wrong = faults_of(TrainTask, merged | fixed)
        faults += [f"candidates.{name}.{fault}" for fault in wrong]
        if job is not None:
            jobs[name] = job
            if job.cycle:
                faults.append(f"candidates.{name}.cycle: one language module is measured; leave it out")
            try:
                check_components(job.components)
            except MadxError as error:
                faults.append(f"candidates.{name}.components: {error}")
    if faults:
        raise ConfigError(f"{len(faults)} fault{'s' * (len(faults) > 1)} in the comparison:\n  " + "\n  ".join(faults))
    return jobs


class _Run:
    def __init__(
        self, settings: Compare, jobs: dict[str, TrainTask], base: Base, tasks: dict[str, TokenClassification]
    ):
        self.settings, self.jobs, self.base, self.tasks = settings, jobs, base, tasks
        self.bases = {"fp32": base}  # by number format: a candidate is measured over the one that it trains over
        self.task = next(iter(tasks.values()))  # its development data and its metric are those of all
        self.store, self.folder = Store(settings.store), Path(settings.run)
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
        )
        return CompareResult(comparison, self.folder, save_report(comparison, self.folder), self.trained, self.reused)

    def _try(self, name: str, what) -> None:
        """Do one thing for one candidate, unless it failed before; an error is its failure and the others go on."""
        if name in self.failed:
            return
        try:
            what(name, self.jobs[name], self.found[name])
        except Exception as error:  # out of memory with all weights moving must not lose the adapters' figures
            self.failed[name] = told_failure(name, error)

    def _train(self, name: str, job: TrainTask, found: dict[str, Any]) -> None:
        """A module for each seed, of the store if it is there: accuracy, storage, size."""
        under = job.language_module
        weights = self.store.show(under).weights.sha256 if under else None
        found["modules"], found["scores"] = [], {}
        for seed in job.seeds:
            one = job.model_copy(update={"seeds": [seed]})
            wanted = identity(one, self.base, seed=seed, under=weights)
            stored_as = content_name(f"{job.task}-{job.language}", wanted, seed=seed, under=under)
            one = one.model_copy(update={"name": stored_as, "run": str(self.folder / "runs" / stored_as)})
            trained = train_if_missing(self.store, one, stored_as, wanted)
            (self.trained if trained else self.reused).append(stored_as)
            row = self.store.show(stored_as)
            if not found["modules"]:  # of the first seed, whose inference is timed too
                found |= {
                    "storage": row.bytes,
                    "parameters": row.weights.parameters,
                    "steps": row.info.training["steps"],
                }
            found["modules"].append(stored_as)
            found["scores"][seed] = row.info.training["scores"]["dev"][self.task.metric]

    def _steps(self, job: TrainTask) -> int:
        """Steps to measure: no fewer than the candidate's selection needs."""
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
        """Rounds of the bare base and every trained module of the first seed; each round gives a ratio to its own base."""
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
                measure.inference_seconds(engine, given[:1])  # warm: the first pass after a swap reads cold weights
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
