"""matrix.json: a transfer matrix as text, without loss, and read again.

The file is under a checksum (`madx.checksums`), and when it is read, every score is compared with the counts beside
it: an altered F1 is refused also in files of earlier versions, which have no checksum.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from madx.checksums import CHECKSUM, checksum, fault_of_checksum, parse_json
from madx.errors import DataError
from madx.files.reading import read_text
from madx.files.reasons import in_words
from madx.metrics.recount import faults_of_scores
from madx.metrics.scores import KINDS, EntityScores, Statistics
from madx.metrics.significance import ALPHA, SAMPLES
from madx.results.cells import Cell, Meta, Missing
from madx.results.matrix import TransferMatrix

FORMAT = "madx transfer matrix"
#: version 1 (madx 0.1.0) calls inactive modules `silent`, and the components of a module `part`; 1 and 2 (of no
#: release) have no checksum
VERSION, READ = 3, (1, 2, 3)
log = logging.getLogger("madx")
_OLD_KEYS = {"silent": "inactive", "part": "component"}


def to_json(matrix: TransferMatrix) -> str:
    """The matrix as JSON: meta and cells, which `from_json` reads; table, differences, pairs and warnings for other
    readers.

    One cell a line, so that files of many sentences stay readable and comparable line by line. Raises DataError for a
    text that no file can hold.
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
    try:
        parts[CHECKSUM] = _line(checksum({key: json.loads(value) for key, value in parts.items()}))
    except UnicodeEncodeError as error:
        raise DataError(f"the matrix cannot be written as UTF-8 ({error}); correct that name or note") from None
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
        matrix, version = _read(read_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read ({in_words(error)}); name a matrix.json that madx evaluate wrote"
        ) from error
    except MemoryError as error:
        raise DataError(f"{path} cannot be read: it needs more memory than there is") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if version < VERSION:
        log.warning(
            "%s is of version %d, which has no checksum: its scores agree with their counts, but another change would "
            "not show. Evaluate again for a file with one.",
            path,
            version,
        )
    return matrix


def from_json(text: str) -> TransferMatrix:
    """The matrix of what `to_json` wrote, in this version or in 0.1.0. Raises DataError, naming the fault, on anything
    else."""
    return _read(text)[0]


def _read(text: str) -> tuple[TransferMatrix, int]:
    """A matrix and the version of its file."""
    try:
        content = parse_json(text.encode())
    except ValueError as error:
        raise DataError(f"this matrix is not JSON ({error}); give a matrix.json that madx wrote, whole") from None
    found = (content.get("format"), content.get("version")) if isinstance(content, dict) else (type(content), None)
    if found[0] != FORMAT or type(found[1]) is not int or found[1] not in READ:
        raise DataError(
            f"expected format {FORMAT!r} version {' or '.join(map(str, READ))}, got {found[0]!r:.80} version "
            f"{found[1]!r:.80}; evaluate again, or read it with the madx that wrote it"
        )
    version = int(found[1])
    fault = fault_of_checksum(content) if version == VERSION else CHECKSUM in content and "not of this version"
    if fault:
        raise DataError(f"matrix.json is damaged or was altered (checksum: {fault}); evaluate again")
    try:
        return _matrix(content, old=version == 1), version
    except DataError as error:
        raise DataError(f"matrix.json is damaged: {error}; evaluate again") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"matrix.json is damaged ({type(error).__name__}: {error}); evaluate again") from error


def _matrix(content: dict[str, Any], *, old: bool) -> TransferMatrix:
    meta, targets = content["meta"], content["targets"]
    texts = ("task_module", "source", "base", *(("note",) if "note" in meta else ()))
    for name in ("data", "versions"):
        _require(isinstance(meta.get(name, {}), dict), f"meta.{name}", meta.get(name))
        _require_texts(meta.get(name, {}), f"meta.{name}", tuple(meta.get(name, {})))
    _require_texts(meta, "meta", texts)
    _require(isinstance(targets, list) and all(isinstance(each, str) for each in targets), "targets", targets)
    for missing in content["missing"]:
        _require_texts(missing, "missing", ("target", "control", "reason"))
    return TransferMatrix(
        meta=Meta(**meta),
        cells=tuple(_read_cell(entry, old=old) for entry in content["cells"]),
        targets=tuple(targets),
        missing=tuple(Missing(**missing) for missing in content["missing"]),
    )


def _require(right: bool, what: str, value: Any) -> None:
    if not right:
        raise TypeError(f"{what} is {value!r:.80}")


def _require_texts(entry: dict[str, Any], what: str, keys: Iterable[str]) -> None:
    for key in keys:
        _require(isinstance(entry[key], str), f"{what}.{key}", entry[key])


def _read_cell(entry: dict[str, Any], *, old: bool) -> Cell:
    # the explanation has the inactive modules
    entry = {key: value for key, value in entry.items() if key not in ("inactive", "silent")}
    _require_texts(entry, "cell", ("target", "control", "composition"))
    _require(type(entry["seed"]) is int, "cell.seed", entry["seed"])
    scores = dict(entry.pop("scores"))
    scores["statistics"] = Statistics(**scores["statistics"])
    kind = KINDS[scores.pop("kind", EntityScores.kind)]  # the first matrices held entities alone
    explanation = entry.pop("explanation", None)
    cell = Cell(scores=kind(**scores), explanation=_renamed(explanation) if old else explanation, **entry)
    if faults := faults_of_scores(cell.scores):
        place = f"{cell.target}, control {cell.control}, seed {cell.seed}"
        raise ValueError(f"scores of {place} are not those of their counts: {'; '.join(faults[:4])}")
    return cell


def _renamed(record: Any) -> Any:
    """An explanation of 0.1.0, or a list of its parts, under today's keys."""
    if isinstance(record, list):
        return [_renamed(part) for part in record]
    if not isinstance(record, dict):
        return record
    record = {_OLD_KEYS.get(key, key): value for key, value in record.items()}
    return record | {key: _renamed(record[key]) for key in ("actions", "branches") if key in record}
