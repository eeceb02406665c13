"""Module types compared by price and score."""

from madx.jobs.compare.job import CANDIDATES, Compare, CompareResult, compare, jobs_of

__all__ = [
    "CANDIDATES",
    "Compare",
    "CompareResult",
    "compare",
    "jobs_of",
]
