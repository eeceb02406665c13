"""A transfer matrix from one settings file: sources x targets x tasks x module types x seeds.

The job trains what is missing, takes what is stored and goes on where a killed run stopped. An error loses only what
depends on it: the rest is done, and every failure is reported at the end.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState

from madx.errors import MadxError
from madx.files.places import user_path
from madx.jobs.common import check_folders, is_main, told_failure, versions, weights_of
from madx.jobs.evaluate import Evaluate, evaluate
from madx.jobs.keywords import takes_keywords
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
    """The transfer matrices and their files; the names of what was trained, evaluated, used again, or failed."""

    matrices: Matrices
    folder: Path
    files: list[Path]
    trained: list[str] = field(default_factory=list)
    evaluated: list[str] = field(default_factory=list)
    reused: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@takes_keywords(Matrix)
def matrix(settings: Matrix) -> MatrixResult:
    """Train and evaluate all that the settings ask for and is not there yet.

    The settings come as `Matrix` or as keywords of the same names. Raises ConfigError for faults of the settings,
    before anything runs; KeyboardInterrupt after Ctrl-C, with a checkpoint written first. Anything else that goes
    wrong is a failure of its own in the result.
    """
    check_folders(user_path(settings.run))
    plan = make_plan(settings)
    PartialState().wait_for_everyone()  # all processes have the same plan before one of them changes the store
    return _Run(settings, plan).go()


class _Run:
    def __init__(self, settings: Matrix, plan: Plan):
        self.settings, self.plan = settings, plan
        self.store, self.folder = Store(settings.store), user_path(settings.run)
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
        """Record an error inside as a failure of `what`, so that the run goes on; Ctrl-C still stops it."""
        try:
            yield
        except Exception as error:  # out of memory, a bug, a full disk must not lose the other cells
            self.result.failures.append(Failure(what, told_failure(what, error)))

    def _train(self, training: Training, place: str) -> None:
        """Train a module, unless the store holds it."""
        names, wanted = self.store.names(), training.identity
        if training.under is not None:
            if training.under not in names:
                raise MadxError(
                    f"it needs the language module {training.under}, which is not in the store {self.store.root}"
                )
            wanted = wanted | {"under": weights_of(self.store, training.under)}
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
        run = self.folder / "evaluations" / f"{name}-{self._mark(job)}"
        job = job.model_copy(update={"run": str(run)})
        known = _known(run / "matrix.json", job)
        if known is not None:
            self.result.reused.append(scoring.what)
            return known
        self.result.evaluated.append(scoring.what)
        return evaluate(job).matrix

    def _mark(self, job: Evaluate) -> str:
        """Eight characters for all that decides the scores: weights of all modules, test data, settings, version."""
        weights = {name: weights_of(self.store, name) for name in (job.task_module, *job.modules.values()) if name}
        settings = job.model_dump(
            mode="json", exclude={"store", "device", "run", "progress", "note", "targets", "base"}
        )
        data = {language: file_marks(path) for language, path in job.targets.items()}
        texts = {language: file_marks(path, corpus=True) for language, path in job.proxies.texts.items()}
        return digest(weights, settings, data, texts, versions()["madx"], self.code)


def _known(file: Path, job: Evaluate) -> TransferMatrix | None:
    """The matrix of an earlier run of an evaluation; None when there is none and, with a notice, for a damaged one."""
    if not os.path.lexists(file):
        return None
    try:
        found = read_matrix(file)
    except MadxError as error:
        log.warning("%s: it is evaluated anew.", error)
        return None
    if found.meta.task_module != job.task_module or set(found.targets) != set(job.targets):
        log.warning("%s is the matrix of another evaluation (%s): it is evaluated anew.", file, found.meta.task_module)
        return None
    return found
