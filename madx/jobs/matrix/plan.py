"""The plan of a transfer matrix: every module to train and every evaluation, with what is stored already.

Modules are named by content, `swa-1a2b3c4d@1` and `ner-eng-5e6f7a8b@1`: eight characters of the sha256 over settings,
data, base, the module under it and code, then the seed. So nothing that is stored is ever replaced by something else,
two module types that need the same language module share it, and going back to settings of last week finds last week's
modules.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from madx.base import load_base
from madx.data.labelled.labels import LabelSet, require
from madx.data.labelled.sentences import Sentence
from madx.data.text.corpora import find_files, is_dataset
from madx.errors import MadxError
from madx.files.places import user_path
from madx.jobs.common import weights_of
from madx.jobs.evaluate import Evaluate
from madx.jobs.gold import require_entities
from madx.jobs.labelled import read_labelled, task_type
from madx.jobs.matrix.settings import JobsOf, Matrix
from madx.jobs.reuse import TrainJob, content_name, identity, source_digest, stored, taking_turns
from madx.jobs.train_language import TrainLanguage, recipe_steps
from madx.jobs.train_task import TrainTask
from madx.module.components import components_of
from madx.store import Store
from madx.training.sparse.selections import SELECTIONS

TOKEN_BYTES = 4.0  # bytes of text a token of a multilingual base stands for, roughly
WORD_TOKENS = 1.6  # tokens of a word, roughly


@dataclass(frozen=True)
class Failure:
    """Something of a matrix that could not be had, and why."""

    what: str
    why: str


@dataclass(frozen=True)
class Training:
    """A module to train.

    name: its name in the store; what: words for people; under: the module that must be there first; steps: roughly;
    stored: it is there already; begun: a stopped run of it can go on.
    """

    name: str
    what: str
    job: TrainJob
    identity: dict[str, Any]
    under: str | None = None
    steps: int = 0
    stored: bool = False
    begun: bool = False


@dataclass(frozen=True)
class Scoring:
    """An evaluation of one task module. modules: language -> its language module, None for none."""

    task: str
    module_type: str
    source: str
    seed: int
    job: Evaluate
    module: str
    modules: dict[str, str | None]

    @property
    def what(self) -> str:
        """Words for people."""
        return f"{self.task}, {self.module_type}, source {self.source}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Trainings in an order in which each finds the module under it, then evaluations; and all that cannot be done."""

    trainings: list[Training] = field(default_factory=list)
    scorings: list[Scoring] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Optimiser steps that are left to do, roughly."""
        return sum(t.steps for t in self.trainings if not t.stored)


def make_plan(settings: Matrix) -> Plan:
    """Plan the trainings and evaluations of a matrix.

    Raises ConfigError with all faults of the settings; a fault of a single file becomes a failure in the plan.
    """
    jobs = JobsOf(settings)
    planner = _Planner(settings, _Wanted(settings, jobs))
    jobs.raise_if_any()
    return planner.plan()


class _Wanted:
    """The settings of every job of a matrix, made at once so that all their faults come to light together."""

    def __init__(self, settings: Matrix, jobs: JobsOf):
        self.settings = settings
        self.languages: dict[tuple[str, str, int], TrainLanguage | None] = {}  # by module type, language, seed
        self.tasks: dict[tuple[str, str, str, int], TrainTask | None] = {}  # by module type, task, source, seed
        self.evaluations: dict[tuple[str, str, str], Evaluate | None] = {}  # by module type, task, source
        for label, recipe in settings.module_types.items():
            for seed in settings.seeds:
                own = self.language_seed(seed)
                for language in settings.corpora if recipe.language is not None else ():
                    self.languages[label, language, own] = jobs.language(label, language, own)
                for name, data in settings.tasks.items():
                    for source in data.train:
                        self.tasks[label, name, source, seed] = jobs.task(label, name, source, seed)
                        self.evaluations[label, name, source] = jobs.evaluation(label, name, source)

    def language_seed(self, seed: int) -> int:
        """The seed of the language modules under a task module of a seed."""
        return seed if self.settings.language_seeds == "each" else self.settings.seeds[0]


class _Planner:
    def __init__(self, settings: Matrix, wanted: _Wanted):
        self.settings, self.wanted, self.store = settings, wanted, Store(settings.store)
        self.code = source_digest() if settings.code == "source" else ""
        self.trainings: dict[str, Training] = {}
        self.failures: dict[str, Failure] = {}
        self._read: dict[str, list[Sentence]] = {}

    def plan(self) -> Plan:
        settings = self.settings
        self.base = load_base(settings.base, revision=settings.revision)
        scorings: list[Scoring] = []
        for label, recipe in settings.module_types.items():
            for seed in settings.seeds:
                modules = self._languages(label, seed) if recipe.language is not None else {}
                for name, data in settings.tasks.items():
                    for source in data.train:
                        scorings += self._task((label, name, source, seed), modules)
        return Plan(list(self.trainings.values()), scorings, list(self.failures.values()))

    def _languages(self, label: str, seed: int) -> dict[str, str]:
        """Language -> the name of its module, for those that can be had."""
        settings = self.settings
        found: dict[str, str] = {}
        for language, name in settings.module_types[label].use.items():
            try:
                found[language] = self.store.show(name).name
            except MadxError as error:
                self._fail(f"{language}, {label}", error)
        own = self.wanted.language_seed(seed)
        for language in settings.corpora:
            job = self.wanted.languages[label, language, own]
            if job is None or language in settings.module_types[label].use:
                continue
            if planned := self._training(job, f"{language}, {label}", seed=own):
                found[language] = planned
        return found

    def _training(self, job: TrainJob, what: str, *, seed: int, under: str | None = None) -> str | None:
        """Plan one module; gives its name, or None and a failure when its data cannot be read."""
        try:
            weights = weights_of(self.store, under) if under is not None and under in self.store.names() else None
            own = identity(job, self.base, seed=seed, under=weights) | taking_turns(self.store, job)
            steps = self._steps(job)
        except MadxError as error:
            self._fail(what, error)
            return None
        kind = job.language if isinstance(job, TrainLanguage) else f"{job.task}-{job.language}"
        name = content_name(kind, own, seed=seed, under=under, code=self.code)
        if name not in self.trainings:
            ready = (under is None or weights is not None) and None not in own.get("cycle", {}).values()
            there = ready and stored(self.store, name, own, type(job))
            run = user_path(self.settings.run) / "runs" / name
            job = job.model_copy(update={"name": name, "run": str(run)} | ({"language_module": under} if under else {}))
            if isinstance(job, TrainLanguage) and job.cache is None:
                job = job.model_copy(update={"cache": str(user_path(self.settings.run) / "runs" / "cache")})
            begun = not there and next(run.parent.glob(f"{name}-*/**/*.safetensors"), None) is not None
            self.trainings[name] = Training(name, what, job, own, under, steps, there, begun)
        return name

    def _task(self, place: tuple[str, str, str, int], modules: dict[str, str]) -> list[Scoring]:
        """Plan a task module and its evaluation, if they can be had.

        place: module type, task, source language, seed.
        """
        label, name, source, seed = place
        job, evaluation = self.wanted.tasks[place], self.wanted.evaluations[label, name, source]
        if job is None or evaluation is None:
            return []
        job = job.model_copy(update={"cycle": [modules.get(m, m) for m in job.cycle]})
        with_language = self.settings.module_types[label].language is not None
        what = f"{name} from {source}, {label}"
        targets = self._targets(job, name, what)
        under = modules.get(source)
        if with_language and under is None:
            self._fail(what, f"it needs the language module of {source}, which cannot be had")
        if not targets or with_language and under is None:
            return []
        module = self._training(job, f"{what}, seed {seed}", seed=seed, under=under)
        if module is None:
            return []
        scoring = _by_language(evaluation.model_copy(update={"targets": targets}), modules)
        at = {language: modules.get(language) for language in dict.fromkeys([source, *targets])}
        return [Scoring(name, label, source, seed, scoring, module, at)]

    def _targets(self, job: TrainTask, name: str, what: str) -> dict[str, str]:
        """The test sets that can be read and whose labels the training data has; the others become failures."""
        data = self.settings.tasks[name]
        good: dict[str, str] = {}
        try:
            train, dev = str(job.data), str(job.dev)
            labels = task_type(job.task).label_set(self._sentences(train, job), source=train)
            require(labels, LabelSet.from_sentences(self._sentences(dev, job), source=dev))
        except MadxError as error:
            self._fail(what, error)
            return {}
        for language, path in data.test.items():
            try:
                require(labels, LabelSet.from_sentences(self._sentences(path, job), source=path))
                good[language] = path
            except MadxError as error:
                self._fail(f"{name}, target {language}", error)
        return good

    def _sentences(self, path: str, job: TrainTask) -> list[Sentence]:
        key = f"{path} {job.columns!r} {job.task}"
        if key not in self._read:
            kind = task_type(job.task)
            sentences = read_labelled(path, job.columns, kind)
            if kind.inventory is None:
                require_entities(sentences, path, job.columns)
            self._read[key] = sentences
        return self._read[key]

    def _steps(self, job: TrainJob) -> int:
        """Optimiser steps of a job over all phases; roughly, since no text is tokenised for it."""
        if isinstance(job, TrainTask):
            sentences = self._sentences(str(job.data), job)
            words = sum(len(s.tokens) for s in sentences) * WORD_TOKENS
            batches = words / job.tokens_per_batch if job.tokens_per_batch else len(sentences) / (job.batch_size or 1)
            steps = math.ceil(batches) * job.epochs
        elif job.steps != "auto":
            steps = job.steps
        else:
            size = 0 if is_dataset(job.corpus) else sum(file.stat().st_size for file in find_files(job.corpus))
            steps = recipe_steps(int(size / TOKEN_BYTES))
        sparse, component = job.train.sparse, components_of(job.components).get("sparse_diff")
        if component is None or getattr(component, "entries", None) == "all":
            return steps
        full = sparse.full_share if SELECTIONS.get(sparse.selection).trains_before() else 0.0
        return round(steps * sparse.iterations * (1 + full))

    def _fail(self, what: str, why: object) -> None:
        self.failures.setdefault(f"{what} {why}", Failure(what, str(why)))


def _by_language(job: Evaluate, modules: dict[str, str]) -> Evaluate:
    """The job with module names where its settings name languages, since nobody can write names by content into a
    file."""
    proxies = job.proxies.model_copy(
        update={
            "weights": {
                target: {modules.get(m, m): w for m, w in given.items()}
                for target, given in job.proxies.weights.items()
            },
            "relatives": {target: modules.get(m, m) for target, m in job.proxies.relatives.items()},
        }
    )
    mean_of = None if job.mean_of is None else [modules.get(m, m) for m in job.mean_of]
    return job.model_copy(update={"proxies": proxies, "mean_of": mean_of})
