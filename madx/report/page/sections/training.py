"""Learning curves, corpora, modules and data: what the modules' own records tell."""

import math
from statistics import fmean
from typing import Any, NamedTuple

from madx.report.page.figures import Curve, curves, scatter
from madx.report.page.record import RunRecord
from madx.report.page.sections.blocks import Figure, Table
from madx.report.tables.text import upper_first
from madx.results.matrix import TransferMatrix


def learning(record: RunRecord) -> list[Figure]:
    """The learning curves of the modules, as their training recorded them."""
    found: dict[str, list[Curve]] = {}
    for name, module in record.modules.items():
        training = module["training"]
        history = training.get("history", [])
        on_text = module["role"] == "language" or module["task"] is None  # a fusion of language modules has no task
        metric = "perplexity" if on_text else record.matrix.scored.metrics[0]
        for phase in sorted({row.get("phase") for row in history}, key=str):
            rows = [row for row in history if row.get("phase") == phase]
            points = [(row["step"], row[metric]) for row in rows if math.isfinite(row.get(metric, math.nan))]
            if points:
                best = training.get("best_step") if phase is None else None
                found.setdefault(metric, []).append(Curve(name + (f", {phase}" if phase else ""), points, best))
    return [_curves(metric, lines) for metric, lines in found.items()]


def _curves(metric: str, lines: list[Curve]) -> Figure:
    language = metric == "perplexity"
    heading = (
        "Language modules: held-out pseudo-perplexity" if language else f"Task modules: {metric} on development data"
    )
    return Figure(heading, curves(f"{metric} over steps", lines, y_name=metric, logarithmic=language))


class _Corpus(NamedTuple):
    """A language, the corpus of its module, and the mean scores without a module (`none`) and with its own."""

    language: str
    tokens: int
    pieces_per_word: float
    unknown: float
    none: float | None
    own: float


def corpora(record: RunRecord) -> tuple[list[Figure], Table | None]:
    """Scores against the corpus of each language's module: its size, and the number of pieces that its words are cut
    into."""
    found = [c for target in record.matrix.targets if (c := _corpus(record, target)) is not None]
    if not found:
        return [], None
    table = Table(
        ["language", "tokens of its corpus", "pieces per word", "unknown tokens", "no module", "own module"],
        [
            [
                c.language,
                f"{c.tokens:,}",
                f"{c.pieces_per_word:.2f}",
                f"{c.unknown:.2%}",
                "–" if c.none is None else f"{c.none:.1f}",
                f"{c.own:.1f}",
            ]
            for c in found
        ],
    )
    return _fits(record.matrix, found), table


def _corpus(record: RunRecord, target: str) -> _Corpus | None:
    """None for a language without an own module, or when nothing is recorded of its corpus."""
    matrix = record.matrix
    own = matrix.group(target, "source" if target in matrix.meta.sources else "target")
    if not own:
        return None
    module = own[0].composition.split(" + ")[0]
    corpus = record.modules.get(module, {}).get("training", {}).get("corpus")
    if not corpus or not corpus.get("words"):
        return None
    none = matrix.macro([target], "none").scores.values()
    return _Corpus(
        target,
        tokens=corpus["tokens"],
        pieces_per_word=corpus["tokens"] / corpus["words"],
        unknown=corpus["unknown"] / max(corpus["tokens"], 1),
        none=fmean(none) if none else None,
        own=fmean(getattr(c.scores, matrix.scored.metrics[0]) for c in own),
    )


def _fits(matrix: TransferMatrix, found: list[_Corpus]) -> list[Figure]:
    short = matrix.scored.short
    own, pieces, size = f"{short}, own module", "pieces per word", "tokens of the module's corpus"
    shown: list[tuple[str, list[tuple[str, float, float]], str, str]] = [
        (f"{upper_first(short)} and corpus size", [(c.language, c.tokens, c.own) for c in found], size, own),
        (f"{upper_first(short)} and {pieces}", [(c.language, c.pieces_per_word, c.own) for c in found], pieces, own),
    ]
    if gains := [(c.language, c.pieces_per_word, c.own - c.none) for c in found if c.none is not None]:
        shown.append((f"Gain over no module and {pieces}", gains, pieces, f"{own} − none"))
    return [Figure(heading, scatter(heading, points, x_name=x, y_name=y)) for heading, points, x, y in shown]


def module_table(record: RunRecord) -> Table | None:
    """The modules of the run and their training; None without records."""
    if not record.modules:
        return None
    header = ["module", "role", "language", "components", "steps", "trained in", "corpus", "licence"]
    return Table(header, [_module_line(name, module) for name, module in record.modules.items()], 4)


def _module_line(name: str, module: dict[str, Any]) -> list[str]:
    training = module["training"]
    corpus, seconds = training.get("corpus"), training.get("seconds")
    return [
        name,
        module["role"],
        module.get("language") or "–",
        ", ".join(module["components"]),
        f"{training.get('steps', 0):,}",
        "–" if seconds is None else f"{seconds:,.0f} s",
        f"{corpus['tokens']:,} tokens" if corpus else "–",
        module.get("licence") or "–",
    ]


def data_table(record: RunRecord) -> Table:
    """Files with their hashes: the test sets, and the files that the modules were trained on."""
    files = dict(record.matrix.meta.data)
    for module in record.modules.values():
        files |= {d["path"]: d.get("sha256") or "" for d in module["training"].get("data", []) if isinstance(d, dict)}
    return Table(["file", "sha256"], [[path, digest or "–"] for path, digest in files.items()], numbers=2)
