"""Tasks: their data, loss and score, one file each. A file that registers its class adds a task to all jobs."""

from madx.registry import discover
from madx.tasks.base import TASKS

discover(__name__)

__all__ = ["TASKS"]
