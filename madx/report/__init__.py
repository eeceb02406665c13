"""Results as tables, pictures and pages: reads results and writes files; measures nothing.

    from madx import report
    report.save(matrix, "results")            # matrix.json, matrix.csv, matrix.md, heatmap.png
    print(report.to_markdown(matrix))
    rich.print(report.to_rich(matrix))        # for the terminal

Each function takes any kind of result: a `TransferMatrix`, several (`Matrices`), or a `Comparison`. The page of a run
is written by `madx.report.page.write_report(folder)`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import RenderableType

from madx.errors import DataError
from madx.report.saving import save_comparison, save_matrices, save_matrix
from madx.report.tables import comparison, matrices, matrix, matrix_markdown
from madx.results.comparison import Comparison
from madx.results.matrices import Matrices
from madx.results.matrix import TransferMatrix

__all__ = ["save", "to_csv", "to_markdown", "to_rich"]

Result = TransferMatrix | Matrices | Comparison


def save(result: Result, folder: str | Path) -> list[Path]:
    """Write a result's files into a folder, each whole or not at all, and give their paths.

    Of a matrix: matrix.json, matrix.csv, matrix.md, heatmap.png. Of several: matrices.json, .csv, .md, .png, and the
    files of each matrix below `matrices`. Of a comparison: comparison.json, .md, .png. Raises MadxError when they
    cannot be written; files that were there before are then unchanged or whole.
    """
    return _writer(result).save(result, folder)


def to_markdown(result: Result) -> str:
    """The result's tables as Markdown that reads well as plain text, too."""
    return _writer(result).to_markdown(result)


def to_rich(result: Result) -> RenderableType:
    """The result's tables for the terminal, to be printed by `rich`."""
    return _writer(result).to_rich(result)


def to_csv(result: TransferMatrix | Matrices) -> str:
    """A line for each cell of one or several matrices."""
    return matrices.to_csv(result) if isinstance(result, Matrices) else matrix.to_csv(result)


class _Writer(NamedTuple):
    save: Callable[[Any, str | Path], list[Path]]
    to_markdown: Callable[[Any], str]
    to_rich: Callable[[Any], RenderableType]


_WRITERS: dict[type, _Writer] = {
    TransferMatrix: _Writer(save_matrix, matrix_markdown.to_markdown, matrix.to_rich),
    Matrices: _Writer(save_matrices, matrices.to_markdown, matrices.to_rich),
    Comparison: _Writer(save_comparison, comparison.to_markdown, comparison.to_rich),
}


def _writer(result: Result) -> _Writer:
    writer = _WRITERS.get(type(result))
    if writer is None:
        names = ", ".join(kind.__name__ for kind in _WRITERS)
        raise DataError(f"a report is of one of {names}, got {type(result).__name__}; give e.g. evaluate(...).matrix")
    return writer
