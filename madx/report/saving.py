"""The files of each kind of result. All contents are made before the first file is written."""

import json
from pathlib import Path
from typing import Any

from madx.report.files import write_files
from madx.report.tables import comparison as comparison_tables
from madx.report.tables import matrices as matrices_tables
from madx.report.tables import matrix as matrix_tables
from madx.report.tables import matrix_markdown
from madx.results.comparison import Comparison
from madx.results.json import to_json
from madx.results.matrices import Matrices
from madx.results.matrix import TransferMatrix

# The pictures are imported at the call: matplotlib takes half a second to import.


def save_matrix(matrix: TransferMatrix, folder: str | Path) -> list[Path]:
    """Write matrix.json, matrix.csv, matrix.md and heatmap.png."""
    from madx.report.pictures.matrix import heatmap_png

    contents = {
        "matrix.json": to_json(matrix).encode(),
        "matrix.csv": matrix_tables.to_csv(matrix).encode(),
        "matrix.md": matrix_markdown.to_markdown(matrix).encode(),
        "heatmap.png": heatmap_png(matrix),
    }
    return write_files(contents, folder, what="the matrix")


def save_matrices(matrices: Matrices, folder: str | Path) -> list[Path]:
    """Write matrices.json, matrices.csv, matrices.md and, unless all failed, matrices.png; and for every entry the
    files of its own matrix below `matrices`."""
    for entry in matrices.entries:
        save_matrix(entry.matrix, Path(folder) / matrices_tables.folder_of(entry))
    contents = {
        "matrices.json": _json(matrices.as_dict()),
        "matrices.csv": matrices_tables.to_csv(matrices).encode(),
        "matrices.md": matrices_tables.to_markdown(matrices).encode(),
    }
    if matrices.entries:
        from madx.report.pictures.matrices import picture_png

        contents["matrices.png"] = picture_png(matrices)
    return write_files(contents, folder, what="the matrices")


def save_comparison(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write comparison.json, comparison.md and comparison.png."""
    from madx.report.pictures.comparison import picture_png

    contents = {
        "comparison.json": _json(comparison.as_dict()),
        "comparison.md": comparison_tables.to_markdown(comparison).encode(),
        "comparison.png": picture_png(comparison),
    }
    return write_files(contents, folder, what="the comparison")


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
