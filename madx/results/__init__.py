"""Results as plain data: transfer matrices, contrasts, comparisons. Nothing here renders, plots, or needs a model.

A matrix that `madx evaluate` wrote is read with `read_matrix("runs/evaluate-ner/matrix.json")`; `madx.report` makes
tables, pictures and pages of it.
"""

from madx.results.cells import COLUMNS, CONTROLS, PROXIES, Cell, Meta, Missing, Row
from madx.results.comparison import Candidate, Comparison
from madx.results.contrasts import Contrast
from madx.results.json import from_json, read_matrix, to_json
from madx.results.matrices import Entry, Gap, Matrices, joined
from madx.results.matrix import TransferMatrix

__all__ = [
    "COLUMNS",
    "CONTROLS",
    "PROXIES",
    "Candidate",
    "Cell",
    "Comparison",
    "Contrast",
    "Entry",
    "Gap",
    "Matrices",
    "Meta",
    "Missing",
    "Row",
    "TransferMatrix",
    "from_json",
    "joined",
    "read_matrix",
    "to_json",
]
