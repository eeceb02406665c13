"""The errors of the predictions: sentences, and confusion between types."""

from collections import Counter
from dataclasses import dataclass

from madx.data.labelled.spans import stray
from madx.report.page.confusion import INVENTED, MISSED, Example, confusion, examples
from madx.report.page.figures import Square, heatmap
from madx.report.page.record import RunRecord
from madx.report.page.sections.blocks import Figure, Table

#: sentences with an error that are shown of a language
_EXAMPLES = 6
#: pixels of a square of confusion at least: room for a count
_NARROW = 44


@dataclass
class Wrong:
    """The errors of one language.

    sentences, wrong: how many sentences there are, and how many have an error. examples: some of them. confusion,
    table: counts of gold and predicted types, as a picture and as text.
    """

    language: str
    composition: str
    seed: int
    sentences: int
    wrong: int
    examples: list[Example]
    confusion: Figure
    table: Table


def errors(record: RunRecord) -> list[Wrong]:
    """The errors of each language that has predictions, under its own module (else the source's, else none). The
    sentences are of the first seed, the confusion is over all seeds."""
    found = [_wrong(record, target) for target in record.matrix.targets]
    return [wrong for wrong in found if wrong is not None]


def _wrong(record: RunRecord, target: str) -> Wrong | None:
    matrix = record.matrix
    control = next((c for c in ("target", "source", "none", *matrix.columns) if matrix.group(target, c)), None)
    if control is None:
        return None
    cells = matrix.group(target, control)
    read = [(c, p) for c in cells if (p := record.prediction(target, control, c.seed)) is not None]
    if not read:
        return None
    cell, first = read[0]
    kind = matrix.scored.kind
    scoring = matrix.meta.scoring
    shown, wrong = examples(first.sentences, first.predicted, kind, most=_EXAMPLES, scoring=scoring)
    counts: Counter[tuple[str, str]] = Counter()
    for _, prediction in read:
        counts += confusion([s.tags for s in prediction.sentences], prediction.predicted, kind, scoring=scoring)
    predicted = [tags for _, prediction in read for tags in prediction.predicted]
    uncounted = sum(map(stray, predicted)) if (kind, scoring) == ("entities", "strict") else 0
    figure, table = _confusion(target, counts, len(read), uncounted)
    return Wrong(target, cell.composition, cell.seed, len(first.sentences), wrong, shown, figure, table)


def _confusion(target: str, counts: Counter[tuple[str, str]], seeds: int, uncounted: int) -> tuple[Figure, Table]:
    """uncounted: predicted spans that begin with I-, which the strict reading leaves out."""
    types = sorted({t for pair in counts for t in pair} - {MISSED, INVENTED})
    rows = types + [INVENTED] * any(gold == INVENTED for gold, _ in counts)
    columns = types + [MISSED] * any(predicted == MISSED for _, predicted in counts)
    totals = {gold: sum(counts[gold, p] for p in columns) for gold in rows}
    squares = [[_confused(gold, p, counts[gold, p], totals[gold]) for p in columns] for gold in rows]
    title = f"Confusion in {target}: gold rows, predicted columns"
    cell = max(_NARROW, 12 + 7 * max(map(len, columns), default=0))
    svg = heatmap(title, rows, columns, squares, low=0.0, high=1.0, cell=cell, row=28)
    lines = [[gold, *(f"{counts[gold, p]:,}" for p in columns)] for gold in rows]
    notes = [f"counts of {seeds} seeds together"] * (seeds > 1)
    notes += [f"{uncounted:,} predicted spans begin with I- and are not counted (strict)"] * (uncounted > 0)
    return Figure(target, svg, "; ".join(notes)), Table(["gold \\ predicted", *columns], lines)


def _confused(gold: str, predicted: str, count: int, total: int) -> Square:
    if not count:
        return Square(None, "", hint=f"{gold} as {predicted}: never")
    share = count / total
    return Square(share, f"{count:,}", hint=f"{gold} as {predicted}: {count:,} of {total:,} ({share:.0%})")
