"""Job 2: train a task module on labelled sentences of one or several source languages."""

from madx.jobs.train_task.job import TaskResult, train_task
from madx.jobs.train_task.settings import TrainTask

__all__ = [
    "TaskResult",
    "TrainTask",
    "train_task",
]
