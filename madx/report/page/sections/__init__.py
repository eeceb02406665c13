"""The sections of a report as plain data for its template: texts, tables, pictures."""

from dataclasses import asdict
from typing import Any

from madx.report.marks import legend
from madx.report.page.record import RunRecord
from madx.report.page.sections import compositions, errors, scores, training
from madx.report.page.sections.blocks import Table
from madx.report.tables.harm import harm_lines
from madx.report.tables.notes import notes
from madx.report.tables.text import upper_first
from madx.results.cells import COLUMNS


def context(record: RunRecord) -> dict[str, Any]:
    """Everything that the template shows of a run."""
    matrix = record.matrix
    differences = matrix.differences()
    headings = {matrix.scored.metrics[0]: upper_first(matrix.scored.measure)}
    if "macro_f1" in matrix.scored.metrics[1:]:
        headings["macro_f1"] = "Macro F1"
    fits, fit_table = training.corpora(record)
    return {
        "meta": asdict(matrix.meta),
        "measure": matrix.scored.measure,
        "kind": matrix.scored.kind,
        "columns": {c: COLUMNS[c] for c in matrix.columns},
        "warnings": matrix.warnings(),
        "harm": harm_lines(matrix),
        "notes": notes(matrix),
        "marks": legend(),
        "headline": scores.headline(matrix, differences),
        "scores": [scores.heatmap_of(matrix, metric, heading) for metric, heading in headings.items()],
        "score_tables": [scores.score_table(matrix, metric) for metric in headings],
        "difference": scores.difference_figure(matrix, differences),
        "difference_table": scores.pair_table(differences),
        "pairs": scores.pair_table(matrix.pairs()),
        "per_type": scores.per_type(matrix),
        "learning": training.learning(record),
        "fits": fits,
        "fit_table": fit_table,
        "errors": errors.errors(record),
        "compositions": compositions.compositions(matrix),
        "modules": training.module_table(record),
        "data": training.data_table(record),
        "versions": Table(["what", "version"], [list(item) for item in matrix.meta.versions.items()], numbers=2),
    }
