"""matrix.json: a transfer matrix as text, without loss, and read again."""

import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from madx.errors import DataError
from madx.files.reading import read_text
from madx.files.reasons import in_words
from madx.metrics.scores import KINDS, EntityScores, Statistics
from madx.metrics.significance import ALPHA, SAMPLES
from madx.results.cells import Cell, Meta, Missing
from madx.results.matrix import TransferMatrix

FORMAT = "madx transfer matrix"
#: version 1 (madx 0.1.0) calls inactive modules `silent`, and the components of a module `part`
VERSION, READ = 2, (1, 2)
_OLD_KEYS = {"silent": "inactive", "part": "component"}


def to_json(matrix: TransferMatrix) -> str:
    """The matrix as JSON: meta and cells, which `from_json` reads; table, differences, pairs and warnings for other
    readers.

    One cell a line, so that files of many sentences stay readable and comparable line by line.
    """
    tests = {
        "seeds": "paired t",
        "sentences": "paired bootstrap",
        "samples": SAMPLES,
        "alpha": ALPHA,
        "p": "the larger of both",
        "correction": "Holm over all pairs",
    }
    parts = {
        "format": _line(FORMAT),
        "version": _line(VERSION),
        "warnings": _lines(matrix.warnings()),
        "meta": _line(asdict(matrix.meta)),
        "targets": _line(list(matrix.targets)),
        "table": _lines(map(asdict, matrix.table())),
        "differences": _lines(map(asdict, matrix.differences())),
        "pairs": _lines(map(asdict, matrix.pairs())),
        "tests": _line(tests),
        "missing": _lines(map(asdict, matrix.missing)),
        "cells": _lines(map(_cell, matrix.cells)),
    }
    return "{" + ",".join(f'\n  "{key}": {value}' for key, value in parts.items()) + "\n}\n"


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _lines(values: Iterable[Any]) -> str:
    found = [f"\n    {_line(value)}" for value in values]
    return "[" + ",".join(found) + ("\n  ]" if found else "]")


def _cell(cell: Cell) -> dict[str, Any]:
    scores, statistics = cell.scores, cell.scores.statistics
    plain = {"kind": scores.kind} | {f.name: getattr(scores, f.name) for f in fields(scores) if f.name != "statistics"}
    plain["statistics"] = {name: getattr(statistics, name).tolist() for name in ("tp", "n_gold", "n_pred")}
    return {
        "target": cell.target,
        "control": cell.control,
        "composition": cell.composition,
        "seed": cell.seed,
        "inactive": list(cell.inactive),
        "explanation": cell.explanation,
        "scores": plain,
    }


def read_matrix(path: str | Path) -> TransferMatrix:
    """Read a matrix.json from a file. Raises DataError, naming the file, when it cannot be read."""
    path = Path(path)
    try:
        return from_json(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({in_words(error)}); name a matrix.json that madx evaluate wrote"
        ) from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def from_json(text: str) -> TransferMatrix:
    """The matrix of what `to_json` wrote, in this version or in 0.1.0. Raises DataError, naming the fault, on anything
    else."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise DataError(f"this matrix is not JSON ({error}); give a matrix.json that madx wrote, whole") from None
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (type(content), None)
    if found[0] != FORMAT or found[1] not in READ:
        raise DataError(
            f"expected format {FORMAT!r} version {' or '.join(map(str, READ))}, got {found[0]!r} version {found[1]!r}; "
            "evaluate again, or read it with the madx that wrote it"
        )
    try:
        return TransferMatrix(
            meta=Meta(**content["meta"]),
            cells=tuple(_read_cell(entry, old=found[1] == 1) for entry in content["cells"]),
            targets=tuple(content["targets"]),
            missing=tuple(Missing(**m) for m in content["missing"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"matrix.json is damaged ({type(error).__name__}: {error}); evaluate again") from error


def _read_cell(entry: dict[str, Any], *, old: bool) -> Cell:
    entry = {
        key: value for key, value in entry.items() if key not in ("inactive", "silent")
    }  # the explanation has them
    scores = dict(entry.pop("scores"))
    scores["statistics"] = Statistics(**scores["statistics"])
    kind = KINDS[scores.pop("kind", EntityScores.kind)]  # the first matrices held entities alone
    explanation = entry.pop("explanation", None)
    return Cell(scores=kind(**scores), explanation=_renamed(explanation) if old else explanation, **entry)


def _renamed(record: Any) -> Any:
    """An explanation of 0.1.0, or a list of its parts, under today's keys."""
    if isinstance(record, list):
        return [_renamed(part) for part in record]
    if not isinstance(record, dict):
        return record
    record = {_OLD_KEYS.get(key, key): value for key, value in record.items()}
    return record | {key: _renamed(record[key]) for key in ("actions", "branches") if key in record}
