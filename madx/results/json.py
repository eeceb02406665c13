"""A transfer matrix on disk: matrix.json without loss, and the four files of a report, each written atomically."""

import json
import os
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

from madx.errors import DataError, MadxError
from madx.metrics.scores import KINDS, EntityScores, Statistics
from madx.metrics.significance import ALPHA, SAMPLES
from madx.results.matrix import Cell, Meta, Missing, TransferMatrix

FORMAT = "madx transfer matrix"
VERSION = 1


def to_json(matrix: TransferMatrix) -> str:
    """Meta and cells, which `from_json` reads; table, differences, pairs and warnings for human and other readers.

    One cell a line, so that files of many sentences stay readable and comparable line by line.
    """

    def line(value) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    def lines(values) -> str:
        return "[" + ",".join("\n    " + line(v) for v in values) + ("\n  ]" if values else "]")

    parts = {
        "format": line(FORMAT),
        "version": line(VERSION),
        "warnings": lines(matrix.warnings()),
        "meta": line(asdict(matrix.meta)),
        "targets": line(list(matrix.targets)),
        "table": lines([asdict(r) for r in matrix.table()]),
        "differences": lines([asdict(c) for c in matrix.differences()]),
        "pairs": lines([asdict(c) for c in matrix.pairs()]),
        "tests": line(
            {
                "seeds": "paired t",
                "sentences": "paired bootstrap",
                "samples": SAMPLES,
                "alpha": ALPHA,
                "p": "the larger of both",
                "correction": "Holm over all pairs",
            }
        ),
        "missing": lines([asdict(m) for m in matrix.missing]),
        "cells": lines([_cell(c) for c in matrix.cells]),
    }
    return "{" + ",".join(f'\n  "{key}": {value}' for key, value in parts.items()) + "\n}\n"


def _cell(cell: Cell) -> dict:
    scores, statistics = cell.scores, cell.scores.statistics
    plain = {"kind": scores.kind} | {f.name: getattr(scores, f.name) for f in fields(scores) if f.name != "statistics"}
    plain["statistics"] = {name: getattr(statistics, name).tolist() for name in ("tp", "n_gold", "n_pred")}
    return {
        "target": cell.target,
        "control": cell.control,
        "composition": cell.composition,
        "seed": cell.seed,
        "silent": list(cell.silent),
        "explanation": cell.explanation,
        "scores": plain,
    }


def from_json(text: str) -> TransferMatrix:
    """Read matrix.json. Raises DataError, naming the fault, on anything that `to_json` does not write."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"this matrix is not JSON ({error}); give a matrix.json that madx wrote, whole") from None
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (type(content), None)
    if found != (FORMAT, VERSION):
        raise DataError(
            f"expected format {FORMAT!r} version {VERSION}, got {found[0]!r} version {found[1]!r}; "
            "evaluate again, or read it with the madx that wrote it"
        )
    try:
        cells = []
        for entry in content["cells"]:
            scores = dict(entry["scores"])
            scores["statistics"] = Statistics(**scores["statistics"])
            rest = {key: value for key, value in entry.items() if key not in ("scores", "silent")}  # silent is derived
            kind = KINDS[scores.pop("kind", EntityScores.kind)]  # a matrix of an older madx holds entities
            cells.append(Cell(scores=kind(**scores), **rest))
        return TransferMatrix(
            meta=Meta(**content["meta"]),
            cells=tuple(cells),
            targets=tuple(content["targets"]),
            missing=tuple(Missing(**m) for m in content["missing"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"matrix.json is damaged ({type(error).__name__}: {error}); evaluate again") from error


def save(matrix: TransferMatrix, folder: str | Path) -> list[Path]:
    """Write the four files. All contents are made before the first is written; an old file stays until its
    successor lies whole beside it. Raises MadxError when the folder cannot be written."""
    from madx.report.heatmap import heatmap_png  # matplotlib takes half a second to import

    contents = {
        "matrix.json": matrix.to_json().encode(),
        "matrix.csv": matrix.to_csv().encode(),
        "matrix.md": matrix.to_markdown().encode(),
        "heatmap.png": heatmap_png(matrix),
    }
    return write_files(contents, folder, what="the matrix")


def write_files(contents: dict[str, bytes], folder: str | Path, *, what: str) -> list[Path]:
    """Write files into a folder, each whole or not at all; gives their paths. Raises MadxError, which names `what` they
    are, when that is impossible."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_whole(folder / name, content)
    except OSError as error:
        raise MadxError(
            f"cannot write {what} to {folder}: {error}; files that were there are unchanged or whole. "
            "Free space or choose another folder"
        ) from error
    return [folder / name for name in contents]


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that whoever looks sees the old one or the new one, whole."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 would hide the report from colleagues
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
