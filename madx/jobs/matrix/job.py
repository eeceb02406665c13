"""A whole transfer matrix from one settings file: sources x targets x tasks x module types x seeds.

Runs what is missing, takes what is stored, goes on where a killed run stopped, and loses nothing to an error: what depends
on it is left out, all the rest is done, and every failure is told at the end.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from madx.errors import MadxError
from madx.jobs.common import is_main, told_failure, versions
from madx.jobs.evaluate import Evaluate, evaluate
from madx.jobs.matrix.plan import Failure, Plan, Scoring, Training, make_plan
from madx.jobs.matrix.settings import Matrix
from madx.jobs.reuse import digest, file_marks, source_digest, taking_turns, train_if_missing
from madx.report import save as save_report
from madx.results.json import read_matrix
from madx.results.matrices import Entry, Matrices, joined
from madx.results.matrix import TransferMatrix
from madx.store import Store

log = logging.getLogger("madx")


@dataclass
class MatrixResult:
    """The transfer matrices, their files, and what was trained, evaluated, taken from the store, or failed."""

    matrices: Matrices
    folder: Path
    files: list[Path]
    trained: list[str] = field(default_factory=list)
    evaluated: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


def matrix(settings: Matrix) -> MatrixResult:
    """Train and evaluate all that the settings ask for and is not there yet.

    Raises ConfigError for faults of the settings, before anything runs; KeyboardInterrupt after Ctrl-C, with a checkpoint
    written first. Anything else that goes wrong is a failure of its own in the result.
    """
    plan = make_plan(settings)
    PartialState().wait_for_everyone()  # all processes have the same plan before one of them changes the store
    return _Run(settings, plan).go()


class _Run:
    def __init__(self, settings: Matrix, plan: Plan):
        self.settings, self.plan = settings, plan
        self.store, self.folder = Store(settings.store), Path(settings.run)
        self.code = source_digest() if settings.code == "source" else ""
        self.result = MatrixResult(Matrices(()), self.folder, [], failures=list(plan.failures))

    def go(self) -> MatrixResult:
        for number, training in enumerate(self.plan.trainings, start=1):
            with self._kept(training.what):
                self._train(training, f"{number}/{len(self.plan.trainings)}")
            PartialState().wait_for_everyone()  # the first process stores the module that the next job may need
        found: dict[tuple[str, str, str], list[TransferMatrix]] = {}
        for scoring in self.plan.scorings if is_main() else ():
            with self._kept(scoring.what):
                scored = self._score(scoring)
                found.setdefault((scoring.task, scoring.module_type, scoring.source), []).append(scored)
        entries = tuple(Entry(*key, joined(each, task_module=".".join(key))) for key, each in found.items())
        failures = tuple((f.what, f.why) for f in self.result.failures)
        self.result.matrices = Matrices(entries, failures, self.settings.note)
        if is_main():
            self.result.files = save_report(self.result.matrices, self.folder)
        return self.result

    @contextmanager
    def _kept(self, what: str) -> Iterator[None]:
        """An error inside is a failure of `what`, and the run goes on. Not Ctrl-C: that stops the run."""
        try:
            yield
        except Exception as error:  # out of memory, a bug, a full disk: the other cells are worth having all the same
            self.result.failures.append(Failure(what, told_failure(what, error)))

    def _train(self, training: Training, place: str) -> None:
        """Train a module, unless the store holds it."""
        names, wanted = self.store.names(), training.identity
        if training.under is not None:
            if training.under not in names:
                raise MadxError(
                    f"it needs the language module {training.under}, which is not in the store {self.store.root}"
                )
            wanted = wanted | {"under": self.store.show(training.under).weights.sha256}
        wanted = wanted | taking_turns(self.store, training.job)
        log.info("%s  %s: %s", place, training.name, training.what)
        trained = train_if_missing(self.store, training.job, training.name, wanted)
        (self.result.trained if trained else self.result.reused).append(training.name)

    def _score(self, scoring: Scoring) -> TransferMatrix:
        """The scores of one task module: of an earlier run with the same modules, data and settings, or anew."""
        names = self.store.names()
        if scoring.module not in names:
            raise MadxError(f"it needs the task module {scoring.module}, which is not in the store {self.store.root}")
        modules = {language: name if name in names else None for language, name in scoring.modules.items()}
        job = scoring.job.model_copy(update={"task_module": scoring.module, "modules": modules})
        name = f"{scoring.task}.{scoring.module_type}.{scoring.source}@{scoring.seed}"
        job = job.model_copy(update={"run": str(self.folder / "evaluations" / f"{name}-{self._mark(job)}")})
        known = _known(Path(job.run) / "matrix.json")
        if known is not None:
            self.result.reused.append(scoring.what)
            return known
        self.result.evaluated.append(scoring.what)
        return evaluate(job).matrix

    def _mark(self, job: Evaluate) -> str:
        """What decides the scores: the weights of all modules, the test data, the settings, the version."""
        weights = {
            name: self.store.show(name).weights.sha256 for name in (job.task_module, *job.modules.values()) if name
        }
        settings = job.model_dump(
            mode="json", exclude={"store", "device", "run", "progress", "note", "targets", "base"}
        )
        data = {language: file_marks(path) for language, path in job.targets.items()}
        texts = {language: file_marks(path, corpus=True) for language, path in job.proxies.texts.items()}
        return digest(weights, settings, data, texts, versions()["madx"], self.code)


def _known(file: Path) -> TransferMatrix | None:
    """The matrix of an earlier run; None when there is none, or it cannot be read any more."""
    try:
        return read_matrix(file)
    except MadxError:
        return None
