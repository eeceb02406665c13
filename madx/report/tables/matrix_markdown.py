"""A transfer matrix as Markdown: scores, differences, every pair, figures per type, and what it was made from."""

from dataclasses import replace
from statistics import fmean, stdev

from madx.outside import code, markdown
from madx.report.tables.harm import harm_lines
from madx.report.tables.matrix import PER_TYPE, by_target, contrast_text, seeds_text
from madx.report.tables.notes import notes
from madx.report.tables.text import interval_text, markdown_table, over_text, score_text, upper_first
from madx.results.cells import COLUMNS, Row
from madx.results.contrasts import NOISE, Contrast, best, like_best
from madx.results.matrix import TransferMatrix


def to_markdown(matrix: TransferMatrix) -> str:
    """The whole matrix as Markdown; a warning of an inactive module stands first, behind a red circle."""
    parts = [
        *_head(matrix),
        *_scores(matrix),
        *_macro_f1(matrix),
        *_differences(matrix),
        *_every_pair(matrix),
        *_per_type(matrix),
        *_origin(matrix),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(matrix: TransferMatrix) -> list[str]:
    meta = matrix.meta
    head = (
        f"# Transfer matrix: {code(meta.task_module)}\n\nBase {code(meta.base)}, source language {code(meta.source)}. "
        f"{upper_first(matrix.scored.measure)} in percent points, mean ± standard deviation over n seeds."
    )
    # Markdown knows no colour of its own: the red circle and the place at the top stand for red
    note = f" {markdown(meta.note)}" if meta.note else ""
    warnings = [f"> 🔴 **{markdown(line)}**" for line in matrix.warnings()]
    return [head + note, *warnings, *(f"> 🟠 {markdown(line)}" for line in harm_lines(matrix))]


def _scores(matrix: TransferMatrix) -> list[str]:
    lines = [
        [markdown(target), *_score_cells(rows, matrix.pairs()), seeds_text(rows)]
        for target, rows in by_target(matrix).items()
    ]
    meanings = [f"- `{name}`: {meaning}" for name, meaning in COLUMNS.items() if name in matrix.columns]
    return [markdown_table(["language", *matrix.columns, "n"], lines), "\n".join(meanings)]


def _score_cells(rows: list[Row], pairs: list[Contrast]) -> list[str]:
    top, alike = best(rows), like_best(rows, pairs)
    return [
        f"**{score_text(r.mean, r.sd)}**{over_text(r, rows)}"
        if r.control in top
        else score_text(r.mean, r.sd)
        + over_text(r, rows)
        + f" {NOISE}" * (r.control in alike)
        + " 🔴 inactive" * bool(r.inactive)
        for r in rows
    ]


def _macro_f1(matrix: TransferMatrix) -> list[str]:
    if "macro_f1" not in matrix.scored.metrics:
        return []
    table = matrix.table("macro_f1")
    lines = [[markdown(t), *(score_text(r.mean, r.sd) for r in table if r.target == t)] for t in matrix.rows]
    return [
        "## Macro F1\n\nThe mean of the F1 of all types, in which rare types weigh as much as frequent ones.",
        markdown_table(["language", *matrix.columns], lines),
    ]


def _differences(matrix: TransferMatrix) -> list[str]:
    short = upper_first(matrix.scored.short)
    text = (
        f"## Differences\n\n{short} under the target's module minus {short} under the control. Over seeds: 95 % t "
        "interval. Over sentences: 95 % interval of a paired bootstrap, with the counts of all seeds added. p: the "
        "larger p of the two tests. Holm: p corrected over all pairs of the matrix."
    )
    head = ["language", "minus", "difference", "over seeds", "n", "over sentences", "p", "Holm"]
    lines = [_difference_line(c) for c in matrix.differences()]
    footnotes = "\n".join(f"- {markdown(line)}" for line in notes(matrix))
    return [text, markdown_table(head, lines, 2), footnotes]


def _difference_line(c: Contrast) -> list[str]:
    sentences = "-" if c.sentences is None else interval_text(c.sentences.low, c.sentences.high)
    difference = contrast_text(c) + (" 🔴 inactive" if c.inactive else "")
    seeds = interval_text(c.low, c.high)
    return [markdown(c.target), c.minus, difference, seeds, str(c.n), sentences, f"{c.p:.3f}", f"{c.p_holm:.3f}"]


def _every_pair(matrix: TransferMatrix) -> list[str]:
    """A square of columns for each language: the score of the row minus that of the column."""
    found = {(c.target, c.control, c.minus): c for c in matrix.pairs()}
    found |= {(t, b, a): replace(c, delta=-c.delta) for (t, a, b), c in found.items()}
    places = {(name, row) for name, row, _ in found}
    lines = [
        [markdown(name), row, *("" if row == c else contrast_text(found.get((name, row, c))) for c in matrix.columns)]
        for name in dict.fromkeys(name for name, _, _ in found)
        for row in matrix.columns
        if (name, row) in places
    ]
    short = upper_first(matrix.scored.short)
    return [
        f"## Every pair\n\n{short} of the row minus {short} of the column. Intervals and p: matrix.json, `pairs`.",
        markdown_table(["language", "", *matrix.columns], lines, 2),
    ]


def _per_type(matrix: TransferMatrix) -> list[str]:
    text = (
        "## Per type\n\nMean over seeds; F1 with its deviation. `all`: micro average. "
        f"Support: gold {matrix.scored.kind}."
    )
    head = ["language", "control", "type", "precision", "recall", "F1", "support"]
    lines = [line for t in matrix.targets for c in matrix.columns for line in _type_lines(matrix, t, c)]
    return [text, markdown_table(head, lines, 3)]


def _type_lines(matrix: TransferMatrix, target: str, control: str) -> list[list[str]]:
    """The lines of one place: all types together, then each type."""
    scores = [c.scores for c in matrix.group(target, control)]
    if not scores:
        return []
    nothing = dict.fromkeys(PER_TYPE, 0.0)  # of a type that a seed neither predicted nor found in the gold tags
    figures = {"all": [s.overall() for s in scores]}
    for name in sorted({t for s in scores for t in s.per_type}):
        figures[name] = [s.per_type.get(name, nothing) for s in scores]
    lines = []
    for name, found in figures.items():
        f1, support = [f["f1"] for f in found], int(found[0]["support"])
        shown = score_text(fmean(f1), stdev(f1) if len(f1) > 1 else None) if support else "-"
        means = [f"{fmean(f[metric] for f in found):.1f}" for metric in ("precision", "recall")]
        lines.append([markdown(target), control, markdown(name), *means, shown, str(support)])
    return lines


def _origin(matrix: TransferMatrix) -> list[str]:
    sources = [f"- data {code(file)}: sha256 {code(digest)}" for file, digest in matrix.meta.data.items()]
    sources += [f"- {markdown(library)} {markdown(version)}" for library, version in matrix.meta.versions.items()]
    return ["## Made from\n\n" + "\n".join(sources)] if sources else []
