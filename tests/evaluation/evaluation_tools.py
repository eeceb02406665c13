"""Matrices and a run's folder, made up, for the tests of results and reports."""

import io
import json
import random

from rich.console import Console

from madx.checksums import CHECKSUM, checksum
from madx.data.labelled.conll import Sentence, write_conll
from madx.metrics.scores import entity_scores
from madx.report import to_rich
from madx.report.page.record import FORMAT, VERSION
from madx.results import CONTROLS, Cell, Meta, Missing, TransferMatrix, to_json

META = Meta("ner", "eng", "tiny-base", {"swa/test.conll": "ab" * 32}, {"torch": "2.13.0"}, "Synthetic.")
#: the share of words that are predicted as in the gold tags
SKILL = {"none": 0.70, "source": 0.68, "target": 0.85, "mean": 0.72}


def cells(target, seeds=(1, 2, 3), controls=CONTROLS, inactive=(), sentences=60):
    """A language's cells, by control and seed, with made-up predictions. inactive: modules that do not act under
    `target`."""
    rng = random.Random(target)
    tags = ["O", "O", "O", "B-PER", "I-PER", "B-LOC"]
    gold = [rng.choices(tags, k=8) for _ in range(sentences)]
    made = []
    for control in controls:
        record = {"inactive": list(inactive) if control == "target" else [], "sites": {"layer.0.ffn": ["ner"]}}
        for seed in seeds:
            predicted = [[t if rng.random() < SKILL[control] else rng.choice(tags) for t in s] for s in gold]
            made.append(Cell(target, control, f"{target} + ner", seed, entity_scores(gold, predicted), record))
    return made


def matrix(*groups, **settings):
    """The matrix of several languages' cells."""
    return TransferMatrix(META, tuple(c for group in groups for c in group), **settings)


def printed(m, width=100):
    """A matrix as a terminal without colours shows it."""
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(to_rich(m))
    return console.file.getvalue()


def row(m, target, control, **kw):
    """One place of the table."""
    return next(r for r in m.table(**kw) if (r.target, r.control) == (target, control))


HOSTILE = "<script>alert(1)</script>"
GOLD = [
    Sentence(
        ("Anna", "met", HOSTILE, "in", "Dar", "es", "Salaam"), ("B-PER", "O", "O", "O", "B-LOC", "I-LOC", "I-LOC"), 1
    ),
    Sentence(("Bob", "&", "Co", "grew"), ("B-ORG", "I-ORG", "I-ORG", "O"), 9),
    Sentence(("it", "rains"), ("O", "O"), 14),
]
FOUND = [["B-PER", "O", "O", "O", "B-ORG", "I-ORG", "O"], ["B-ORG", "I-ORG", "I-ORG", "O"], ["O", "B-PER"]]
ACTION = {
    "site": "layer.0.ffn",
    "module": "swa",
    "component": "bottleneck",
    "what": "8->4->8",
    "change": 0.1,
    "calls": 1,
    "averaged": None,
}


def explanation(composition, inactive=()):
    """An explanation as a cell holds it."""
    return {
        "composition": composition,
        "base": "tiny",
        "actions": [ACTION],
        "decoder": "the base's own",
        "head": "ner: 7 labels",
        "inactive": list(inactive),
        "measured": True,
    }


def fill(folder, *, inactive=(), seeds=(1, 2)):
    """A run's folder with three languages; Swahili has predictions."""
    scored = cells("eng", seeds=seeds, sentences=12, controls=("none", "source"))
    scored += cells("hau", seeds=seeds, sentences=12, controls=("none", "source", "target"))
    tags = [list(s.tags) for s in GOLD]
    for control, composition in (("none", "ner"), ("source", "eng + ner"), ("target", "swa + ner")):
        found = FOUND if control == "target" else [["O"] * len(s.tokens) for s in GOLD]
        record = explanation(composition, inactive if control == "target" else ())
        for seed in seeds:
            scored.append(Cell("swa", control, composition, seed, entity_scores(tags, found), record))
            write_conll(folder / "predictions" / f"swa.{control}.seed{seed}.conll", GOLD, found)
    missing = (Missing("eng", "target", "the source itself: see source"),)
    matrix = TransferMatrix(META, tuple(scored), missing, ("eng", "swa", "hau"))
    (folder / "matrix.json").write_text(to_json(matrix))
    trained = {
        "steps": 10,
        "seconds": 3.2,
        "best_step": 10,
        "history": [{"step": s, "loss": 3.0 / s, "perplexity": 300.0 / s, "accuracy": 0.1} for s in (1, 5, 10)],
        "corpus": {"lines": 9, "tokens": 900, "words": 500, "unknown": 9},
        "data": [{"path": "swa<b>.txt", "sha256": "cd" * 32}],
    }
    history = [{"step": s, "loss": 1.0, "f1": 5.0 * s, "phase": "sparse 1"} for s in (5, 10)]
    modules = {
        "swa": _module("language", "swa", "bottleneck", trained) | {"licence": "MIT"},
        "ner": _module("task", "eng", "sparse_diff", {"steps": 20, "best_step": 10, "history": history}),
    }
    content = {"format": FORMAT, "version": VERSION, "modules": modules, "predictions": {}}
    (folder / "modules.json").write_text(json.dumps(content | {CHECKSUM: checksum(content)}))
    return matrix


def _module(role, language, component, training):
    """The record of a module as a run's folder holds it."""
    task = "ner" if role == "task" else None
    about = {"role": role, "language": language, "task": task, "licence": None}
    return about | {"components": {component: {}}, "training": training}
