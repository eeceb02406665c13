"""The folder of a run of `madx evaluate`, read for its report: scores, predictions, records of the modules."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madx.checksums import CHECKSUM, checksum, fault_of_checksum, parse_json
from madx.data.labelled.conll import Sentence, read_conll
from madx.data.text.corpora import sha256_of
from madx.errors import DataError
from madx.files.names import check_file_name, inside
from madx.files.reading import read_bytes
from madx.report.files import write_files
from madx.results.json import read_matrix
from madx.results.matrix import TransferMatrix

if TYPE_CHECKING:
    from madx.module import ModuleInfo

log = logging.getLogger("madx")

FORMAT = "madx modules of a run"
#: version 1 (madx 0.1.0) calls the components of a module `parts`; 1 and 2 (of no release) have no checksum
VERSION, READ = 3, (1, 2, 3)
MODULES, PREDICTIONS = "modules.json", "predictions"
#: the fields of a module's training record that a report shows
SHOWN = ("job", "steps", "seed", "seconds", "best_step", "history", "corpus", "scores", "data", "composition")


@dataclass(frozen=True)
class Prediction:
    """A test set with the tags predicted for it."""

    sentences: list[Sentence]
    predicted: list[tuple[str, ...]]


@dataclass(frozen=True)
class RunRecord:
    """One evaluation run. modules: name -> its record (`module_record`); empty for a run that wrote none.

    predictions: file -> sha256 of the predictions that the run wrote; empty for a run of an older madx.
    """

    folder: Path
    matrix: TransferMatrix
    modules: dict[str, dict[str, Any]] = field(default_factory=dict)
    predictions: dict[str, str] = field(default_factory=dict)

    def prediction(self, language: str, control: str, seed: int) -> Prediction | None:
        """The predictions of one cell; None when the run did not write them. Raises DataError for altered ones."""
        path = inside(self.folder, PREDICTIONS, prediction_file(language, control, seed), kind=DataError)
        if not path.exists():
            return None
        recorded = self.predictions.get(path.name)
        if recorded is not None and _sha256(path) != recorded:
            raise DataError(f"{path}: damaged, or altered since it was written; evaluate again, or remove the file.")
        gold, found = (
            read_conll(path, token_column=0, tag_column=n, separator="tab", scheme="none", style="conll", detect=False)
            for n in (1, 2)
        )
        return Prediction(gold, [s.tags for s in found])


def prediction_file(language: str, control: str, seed: int) -> str:
    """Name of the file with the predictions of one cell. Raises DataError for names that no file can have."""
    for name, what in ((language, "target"), (control, "control"), (str(seed), "seed")):
        check_file_name(name, what, kind=DataError)
    return f"{language}.{control}.seed{seed}.conll"


def module_record(info: "ModuleInfo") -> dict[str, Any]:
    """The part of a stored module's `ModuleInfo` that a report shows."""
    return {
        "role": info.role,
        "language": info.language,
        "task": info.task,
        "licence": info.licence,
        "components": {name: config.model_dump(mode="json") for name, config in info.components.items()},
        "training": {key: info.training[key] for key in SHOWN if key in info.training},
    }


def save_modules(folder: str | Path, infos: Sequence["ModuleInfo"]) -> Path:
    """Write the records of a run's modules beside its matrix, and the sha256 of each file of predictions."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "modules": {info.name: module_record(info) for info in infos},
        "predictions": {file.name: _sha256(file) for file in sorted((Path(folder) / PREDICTIONS).glob("*.conll"))},
    }
    content[CHECKSUM] = checksum(content)
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    return write_files({MODULES: text.encode()}, folder, what="the records of the modules")[0]


def read_run(folder: str | Path) -> RunRecord:
    """The record of a run's folder. Raises DataError when there is no matrix.json, or a file is damaged."""
    folder = Path(folder)
    path = folder / "matrix.json"
    if not path.is_file():
        raise DataError(
            f"{folder}: no matrix.json there; name the folder that madx evaluate wrote "
            "(its --out, or runs/evaluate-TASK)."
        )
    matrix = read_matrix(path)
    modules = folder / MODULES
    if not modules.is_file():  # a run of an older madx
        return RunRecord(folder, matrix)
    try:
        content = parse_json(read_bytes(modules))
        if content["format"] != FORMAT or content["version"] not in READ:
            raise DataError(
                f"{modules}: format {content['format']!r:.80} version {content['version']!r:.80} is not read; evaluate "
                "again."
            )
        guarded = content["version"] == VERSION
        if fault := fault_of_checksum(content) if guarded else CHECKSUM in content and "not of this version":
            raise ValueError(f"checksum: {fault}")
        if not guarded:
            log.warning(
                "%s is of version %d, which has no checksum: a changed record of a module would not show. Evaluate "
                "again for a file with one.",
                modules,
                content["version"],
            )
        records = {name: _renamed(module) for name, module in content["modules"].items()}
        return RunRecord(folder, matrix, records, dict(content["predictions"]) if guarded else {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, MemoryError) as error:
        raise DataError(
            f"{modules}: damaged ({type(error).__name__}: {error}); evaluate again, or remove the file."
        ) from None


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}; evaluate again, or remove the file.") from error


def _renamed(module: dict[str, Any]) -> dict[str, Any]:
    """The record of a module under today's keys."""
    return {"components" if key == "parts" else key: value for key, value in module.items()}
