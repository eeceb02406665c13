"""Training of sparse weight deltas in phases."""

from madx.training.sparse.fit import SELECTED, fit_sparse

__all__ = [
    "SELECTED",
    "fit_sparse",
]
