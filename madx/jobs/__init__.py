"""The jobs, end to end: what a pipeline file, a `madx` command and a Python call all run."""

from madx.jobs.compare import Compare, CompareResult, compare
from madx.jobs.evaluate import Evaluate, EvaluateResult, evaluate
from madx.jobs.inspect import Inspect, Inspection, inspect
from madx.jobs.matrix import MatrixResult, matrix
from madx.jobs.matrix.plan import make_plan
from madx.jobs.matrix.settings import Matrix
from madx.jobs.predict import Predictor
from madx.jobs.train_language import LanguageResult, TrainLanguage, train_language
from madx.jobs.train_task import TaskResult, TrainTask, train_task

__all__ = [
    "Compare",
    "CompareResult",
    "Evaluate",
    "EvaluateResult",
    "Inspect",
    "Inspection",
    "LanguageResult",
    "Matrix",
    "MatrixResult",
    "Predictor",
    "TaskResult",
    "TrainLanguage",
    "TrainTask",
    "compare",
    "evaluate",
    "inspect",
    "make_plan",
    "matrix",
    "train_language",
    "train_task",
]
