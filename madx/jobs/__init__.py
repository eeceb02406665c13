"""The jobs, end to end: what a pipeline file, a `madx` command and a Python call all run."""

from madx.jobs.evaluate import Evaluate, EvaluateResult, evaluate
from madx.jobs.inspect import Inspect, Inspection, inspect
from madx.jobs.predict import Predictor
from madx.jobs.train_language import LanguageResult, TrainLanguage, train_language
from madx.jobs.train_task import TaskResult, TrainTask, train_task

__all__ = [
    "Evaluate", "EvaluateResult", "Inspect", "Inspection", "LanguageResult", "Predictor", "TaskResult", "TrainLanguage", "TrainTask",
    "evaluate", "inspect", "train_language", "train_task",
]  # fmt: skip
