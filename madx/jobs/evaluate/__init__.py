"""Job 3: evaluate a task module zero-shot, by swapping the language module under it."""

from madx.jobs.evaluate.controls import control_compositions
from madx.jobs.evaluate.job import EvaluateResult, evaluate
from madx.jobs.evaluate.settings import Evaluate

__all__ = [
    "Evaluate",
    "EvaluateResult",
    "control_compositions",
    "evaluate",
]
