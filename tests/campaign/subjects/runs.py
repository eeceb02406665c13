"""What runs leave for later runs and for reports: checkpoints, packed blocks, matrices, folders of an evaluation."""

import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any

import store_tools
import tiny
import tiny_runs
from evaluation.evaluation_tools import FOUND, GOLD, cells, matrix
from tiny_files import save_base, write_corpus
from tiny_files import write_conll as write_conll_file

from campaign.subjects.stored import small_base
from campaign.subjects.subject import Subject, digest
from madx.data.labelled.conll import write_conll
from madx.data.text.blocks import pack_corpus
from madx.data.text.corpora import read_corpus
from madx.jobs import Matrix
from madx.jobs import matrix as run_matrix
from madx.jobs.memory import texts_as_file
from madx.report.page import write_report
from madx.report.page.record import PREDICTIONS, prediction_file, read_run, save_modules
from madx.results import to_json
from madx.results.json import read_matrix

HISTORY = {"history": [{"step": 3, "loss": 1.5, "perplexity": 9.0}], "scores": {"dev": {"f1": 61.5}}}
STEPS = {"steps": 6, "checkpoint_every": 1}


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def _stopped(kind: str, at: int):
    def make(folder: Path) -> None:
        try:
            tiny_runs.train(kind, folder=folder / "run", stop_at=at, **STEPS)
        except KeyboardInterrupt:
            return
        raise RuntimeError("the run was not stopped")

    return make


def _resumed(kind: str):
    def read(folder: Path) -> str:
        made, result = tiny_runs.train(kind, folder=folder / "run", **STEPS)
        found = digest(made.module(kind).tensors(), result.best, result.best_step, result.history)
        made.close()
        return found

    return read


# ---- packed blocks, texts in memory ----------------------------------------------------------------------------------


def _make_blocks(folder: Path) -> None:
    write_corpus(folder / "swa.txt", lines=60)
    _read_blocks(folder)


def _read_blocks(folder: Path) -> str:
    blocks = pack_corpus(str(folder / "swa.txt"), _tokenizer(), block_size=16, cache=folder / "cache")
    rows = [blocks.train[:].tobytes(), blocks.held_out[:].tobytes()]
    return digest(*rows, [blocks.block_size, blocks.stats.tokens, blocks.stats.words, blocks.stats.lines])


@lru_cache
def _tokenizer() -> Any:
    return tiny.tokenizer()


TEXTS = ["the city of Juma", "Anna lives in the market", "a river"]


def _read_memory(folder: Path) -> list[str]:
    os.environ["MADX_CACHE"] = str(folder / "cache")
    return list(read_corpus(texts_as_file(TEXTS)))


# ---- results ---------------------------------------------------------------------------------------------------------


def _matrix() -> Any:
    groups = [cells(target, seeds=(1, 2), controls=("none", "target"), sentences=6) for target in ("swa", "yor")]
    return matrix(*groups, targets=("swa", "yor"))


def _make_matrix(folder: Path) -> None:
    (folder / "matrix.json").write_text(to_json(_matrix()), encoding="utf-8")


def _plain(found: Any) -> str:
    rows = [
        [c.target, c.control, c.composition, c.seed, c.explanation, repr(c.scores), list(c.inactive)]
        + [getattr(c.scores.statistics, name).tolist() for name in ("tp", "n_gold", "n_pred")]
        for c in found.cells
    ]
    return digest(rows, repr(found.meta), list(found.targets), repr(found.missing))


def _read_matrix(folder: Path) -> str:
    return _plain(read_matrix(folder / "matrix.json"))


def _cell_settings(folder: Path) -> Matrix:
    """A matrix of one head over the bare base: one training, one evaluation."""
    data = {split: {"eng": str(folder / f"{split}.conll")} for split in ("train", "dev", "test")}
    values = {"base": str(folder / "base"), "store": str(folder / "modules"), "run": str(folder / "matrix")}
    recipe = {"language": None, "task": {"components": "head_only", "epochs": 1}}
    return Matrix.model_validate(
        values | {"tasks": {"ner": data}, "module_types": {"head": recipe}, "seeds": [1], "progress": False}
    )


def _make_cell(folder: Path) -> None:
    save_base(folder / "base")
    for number, split in enumerate(("train", "dev", "test")):
        write_conll_file(folder / f"{split}.conll", sentences=6, seed=number)
    run_matrix(_cell_settings(folder))
    shutil.rmtree(folder / "matrix" / "matrices")


def _read_cell(folder: Path) -> list[str]:
    """The matrix again: a cell that is damaged is evaluated anew, and gives the same values."""
    result = run_matrix(_cell_settings(folder))
    if result.failures:
        raise RuntimeError(f"the matrix cannot be had: {result.failures}")
    rows = [[c.target, c.control, c.composition, c.seed, repr(c.scores)] for c in _cells(result)]
    return [digest(row) for row in rows]


def _cells(result: Any) -> list[Any]:
    return [cell for entry in result.matrices.entries for cell in entry.matrix.cells]


def _make_run(folder: Path) -> None:
    _make_matrix(folder)
    swa = store_tools.module(small_base())
    swa.info.training = dict(store_tools.TRAINING) | HISTORY
    save_modules(folder, [swa.info])
    for control in ("none", "target"):
        write_conll(folder / PREDICTIONS / prediction_file("swa", control, 1), GOLD, FOUND)


def _read_run(folder: Path) -> str:
    record = read_run(folder)
    write_report(folder)
    return digest(_plain(record.matrix), record.modules)


def _read_predictions(folder: Path) -> str:
    write_report(folder)
    found = read_run(folder).prediction("swa", "target", 1)
    return digest([[s.tokens, s.tags] for s in found.sentences], found.predicted)


SUBJECTS = (
    Subject("checkpoint of language", "records", _stopped("mlm", 3), _resumed("mlm"), ("run/**/*",), checked=True),
    Subject("checkpoint of task", "records", _stopped("ner", 3), _resumed("ner"), ("run/**/*",), checked=True),
    Subject("checkpoints of sparse run", "records", _stopped("sft", 4), _resumed("sft"), ("run/**/*",), checked=True),
    Subject("packed blocks", "records", _make_blocks, _read_blocks, ("cache/**/*",), checked=True),
    Subject("texts in memory", "readers", _read_memory, _read_memory, ("cache/**/*",), checked=True),
    Subject("matrix.json", "records", _make_matrix, _read_matrix, ("matrix.json",), checked=True),
    Subject("cell of a matrix", "records", _make_cell, _read_cell, ("matrix/evaluations/*/matrix.json",), checked=True),
    Subject("folder of a run", "scores", _make_run, _read_run, ("*.json",), checked=True),
    Subject("predictions of a run", "scores", _make_run, _read_predictions, ("predictions/*",)),
)
