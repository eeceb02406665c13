"""Tasks: data, head and score; one file each. Adding a file that registers itself adds a task to the jobs and the command line."""

from madx.registry import discover
from madx.tasks.base import TASKS

discover(__name__)

__all__ = ["TASKS"]
