"""One matrix of many trainings and evaluations."""

from madx.jobs.matrix.job import MatrixResult, matrix

__all__ = [
    "MatrixResult",
    "matrix",
]
