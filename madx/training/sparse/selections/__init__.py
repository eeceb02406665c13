"""Rules that select the entries of a sparse weight delta: scores in, mask out. One file each; a new file adds one."""

from madx.registry import discover
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection

discover(__name__)

__all__ = ["SELECTIONS", "Importance", "Selection"]
