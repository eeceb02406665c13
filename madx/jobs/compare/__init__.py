"""A comparison of module types by cost and score."""

from madx.jobs.compare.job import CompareResult, compare
from madx.jobs.compare.settings import CANDIDATES, Compare, jobs_of

__all__ = [
    "CANDIDATES",
    "Compare",
    "CompareResult",
    "compare",
    "jobs_of",
]
