"""The jobs, end to end: a pipeline, a `madx` command and a Python call all run these."""

from madx.jobs.compare import Compare, CompareResult, compare
from madx.jobs.evaluate import Evaluate, EvaluateResult, evaluate
from madx.jobs.inspect import Inspect, Inspection, inspect
from madx.jobs.labelled import Columns
from madx.jobs.matrix import Matrix, MatrixResult, make_plan, matrix
from madx.jobs.predict import Predictor
from madx.jobs.prediction import Entity, Prediction
from madx.jobs.proxies import Proxies
from madx.jobs.train_head import HeadResult, TrainHead, train_head
from madx.jobs.train_language import LanguageResult, TrainLanguage, train_language
from madx.jobs.train_task import TaskResult, TrainTask, train_task
from madx.jobs.transfer import Transfer

__all__ = [
    "Columns",
    "Compare",
    "CompareResult",
    "Entity",
    "Evaluate",
    "EvaluateResult",
    "HeadResult",
    "Inspect",
    "Inspection",
    "LanguageResult",
    "Matrix",
    "MatrixResult",
    "Prediction",
    "Predictor",
    "Proxies",
    "TaskResult",
    "TrainHead",
    "TrainLanguage",
    "TrainTask",
    "Transfer",
    "compare",
    "evaluate",
    "inspect",
    "make_plan",
    "matrix",
    "train_head",
    "train_language",
    "train_task",
]
