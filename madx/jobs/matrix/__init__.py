"""A whole transfer matrix: the trainings and evaluations that one settings file asks for."""

from madx.jobs.matrix.job import MatrixResult, matrix
from madx.jobs.matrix.plan import make_plan
from madx.jobs.matrix.settings import Matrix

__all__ = [
    "Matrix",
    "MatrixResult",
    "make_plan",
    "matrix",
]
