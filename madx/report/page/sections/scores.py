"""The sections of a report as plain data for its template: texts, tables, pictures."""

import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev

from madx.engine.explain import Explanation
from madx.report.page.errors import INVENTED, MISSED, Example, confusion, examples
from madx.report.page.figures import Curve, Square, curves, heatmap, intervals, scatter
from madx.report.page.record import RunRecord
from madx.report.page.svg import Svg
from madx.report.tables import score_text, signed, upper_first
from madx.results.contrasts import ALONE, NOISE, Contrast, like_best
from madx.results.matrix import AVERAGE, BASELINES, COLUMNS, Row, TransferMatrix

#: sentences with an error shown of a language
EXAMPLES = 6
#: width of a square of confusion at least: room for a count
NARROW = 44


#: marks of a contrast in words
VERDICTS = {NOISE: "within noise", ALONE: "beyond noise before correction only", "": "beyond noise"}


@dataclass
class Figure:
    """A picture with a heading; `note` stands below it."""

    heading: str
    svg: Svg
    note: str = ""


@dataclass
class Table:
    """Cells as text under a header; columns from `numbers` on are figures. `strong`: rows to print bold."""

    header: list[str]
    rows: list[list[str]]
    numbers: int = 1
    strong: list[int] = field(default_factory=list)


@dataclass
class Wrong:
    """The errors of one language: how many sentences, some of them, confusion between types."""

    language: str
    composition: str
    seed: int
    sentences: int
    wrong: int
    examples: list[Example]
    confusion: Figure
    table: Table


def headline(matrix: TransferMatrix, contrasts: list[Contrast]) -> list[str]:
    """What the run says, in a sentence for each baseline, on the average or the only target."""
    name = matrix.rows[-1]
    found = []
    for c in (c for c in contrasts if c.target == name):
        over = (
            f"95 % interval {signed(c.low)} to {signed(c.high)} over {c.n} seeds"
            if c.low is not None
            else "one seed, so no interval"
        )
        of = f"on the average of {c.languages} languages" if name == AVERAGE else f"in {name}"
        found.append(f"target − {c.minus}: {signed(c.delta)} points {of} ({over}): {VERDICTS[c.mark]}.")
    return found


def scores(matrix: TransferMatrix, metric: str, heading: str) -> Figure:
    """The transfer matrix as a heatmap."""
    table, names = matrix.table(metric), matrix.rows
    shown = list(matrix.columns)
    of = {t: [r for r in table if r.target == t] for t in names}
    alike = {t: like_best(matrix, of[t]) if metric == matrix.scored.metrics[0] else () for t in names}
    squares = [[_square(r, noise=r.control in alike[t]) for r in of[t]] for t in names]
    rows = [t + " (source)" * (t in matrix.meta.sources) for t in names]
    last = len(names) - 1 if names[-1] == AVERAGE else None
    return Figure(heading, heatmap(f"{heading} by language and control", rows, shown, squares, separate=last))


def _square(row: Row, *, noise: bool) -> Square:
    if row.mean is None:
        return Square(None, "–", hint=f"{row.target}, {row.control}: {row.reason}")
    below = "" if row.sd is None else f"± {row.sd:.1f}"
    silent = f"; SILENT: {', '.join(row.silent)}" if row.silent else ""
    hint = f"{row.target}, {row.control}: {score_text(row.mean, row.sd)}, n = {row.n}{silent}"
    return Square(
        row.mean, f"{row.mean:.1f}" + f" {NOISE}" * noise + "!" * bool(row.silent), below, hint, bool(row.silent)
    )


def score_table(matrix: TransferMatrix, metric: str) -> Table:
    """The same as numbers."""
    rows = {t: [r for r in matrix.table(metric) if r.target == t] for t in matrix.rows}
    return Table(
        ["language", *matrix.columns, "seeds"],
        [
            [t, *(score_text(r.mean, r.sd) + " SILENT" * bool(r.silent) for r in found), str(max(r.n for r in found))]
            for t, found in rows.items()
        ],
    )


def differences(matrix: TransferMatrix, contrasts: list[Contrast]) -> Figure | None:
    """Target minus each control; None where there is nothing to compare."""
    names = [t for t in matrix.rows if any(c.target == t for c in contrasts)]
    title = f"Difference in {matrix.scored.short}: target minus each control"
    return Figure(title, intervals(title, names, contrasts, BASELINES)) if names else None


def pair_table(contrasts: list[Contrast]) -> Table:
    """Differences with both intervals, p and verdict."""
    rows = []
    for c in contrasts:
        seeds = "–" if c.low is None else f"{signed(c.low)} to {signed(c.high)}"
        s = c.sentences
        pair = "–" if s is None else f"{signed(s.low)} to {signed(s.high)}"
        rows.append(
            [
                c.target,
                f"{c.control} − {c.minus}",
                c.mark + signed(c.delta),
                seeds,
                str(c.n),
                pair,
                f"{c.p:.3f}",
                f"{c.p_holm:.3f}",
                {NOISE: "noise", ALONE: "before Holm", "": "beyond"}[c.mark] + ", SILENT" * bool(c.silent),
            ]
        )
    header = [
        "language",
        "difference",
        "points",
        "95 % over seeds",
        "seeds",
        "95 % over sentences",
        "p",
        "Holm",
        "verdict",
    ]
    return Table(header, rows, 2, [i for i, c in enumerate(contrasts) if not c.mark])


def per_type(matrix: TransferMatrix) -> list[Figure]:
    """F1 of each type under each control, a heatmap for each language, all on one scale."""
    found, values = [], []
    for target in matrix.targets:
        groups = {c: [cell.scores.per_type for cell in matrix.group(target, c)] for c in matrix.columns}
        shown = [c for c, cells in groups.items() if cells]
        types = sorted({t for cells in groups.values() for types in cells for t in types})
        support = {
            t: next((int(f[t]["support"]) for cells in groups.values() for f in cells if t in f), 0) for t in types
        }
        squares = []
        for name in types:
            means = {c: [f[name]["f1"] if name in f else 0.0 for f in groups[c]] for c in shown}
            squares.append([_type_square(target, name, c, means[c], support[name]) for c in shown])
        values += [s.value for line in squares for s in line if s.value is not None]
        found.append((target, [f"{t} ({support[t]:,})" for t in types], shown, squares))
    low, high = min(values, default=0.0), max(values, default=1.0)
    return [
        Figure(target, heatmap(f"F1 of each type in {target}", rows, shown, squares, row=26, low=low, high=high))
        for target, rows, shown, squares in found
        if rows
    ]


def _type_square(target: str, name: str, control: str, values: list[float], support: int) -> Square:
    hint = f"{target}, {control}, {name}: {score_text(fmean(values), stdev(values) if len(values) > 1 else None)}, {support:,} gold"
    return (
        Square(fmean(values), f"{fmean(values):.1f}", hint=hint)
        if support
        else Square(None, "–", hint=f"{hint}: none to find")
    )


def learning(record: RunRecord) -> list[Figure]:
    """Learning curves of the modules, as their training recorded them."""
    found: dict[str, list[Curve]] = {}
    for name, module in record.modules.items():
        training = module["training"]
        phases = {row.get("phase") for row in training.get("history", [])}
        for phase in sorted(phases, key=str):
            rows = [row for row in training["history"] if row.get("phase") == phase]
            metric = "perplexity" if module["role"] == "language" else record.matrix.scored.metrics[0]
            points = [(row["step"], row[metric]) for row in rows if math.isfinite(row.get(metric, math.nan))]
            if points:
                best = training.get("best_step") if phase is None else None
                found.setdefault(metric, []).append(Curve(name + (f", {phase}" if phase else ""), points, best))
    return [
        Figure(
            "Language modules: held-out pseudo-perplexity"
            if metric == "perplexity"
            else f"Task modules: {metric} on development data",
            curves(f"{metric} over steps", lines, y_name=metric, logarithmic=metric == "perplexity"),
        )
        for metric, lines in found.items()
    ]


def against_language(record: RunRecord) -> tuple[list[Figure], Table | None]:
    """Scores against the corpus of the language's module: its size, and how its words are cut."""
    matrix, rows = record.matrix, []
    for target in matrix.targets:
        cells = {
            c: matrix.group(target, c) for c in ("none", "target" if target not in matrix.meta.sources else "source")
        }
        own = list(cells.values())[1]
        name = own[0].composition.split(" + ")[0] if own else ""
        corpus = record.modules.get(name, {}).get("training", {}).get("corpus")
        if not corpus or not corpus.get("words"):
            continue
        means = [
            fmean(getattr(c.scores, matrix.scored.metrics[0]) for c in group) if group else None
            for group in cells.values()
        ]
        rows.append(
            (
                target,
                corpus["tokens"],
                corpus["tokens"] / corpus["words"],
                corpus["unknown"] / max(corpus["tokens"], 1),
                *means,
            )
        )
    if not rows:
        return [], None
    short = matrix.scored.short
    gains = [(t, tokens, cut, own - none) for t, tokens, cut, _, none, own in rows if none is not None]
    figures = [
        Figure(
            f"{upper_first(short)} and corpus size",
            scatter(
                f"{short} against corpus size",
                [(t, n, own) for t, n, _, _, _, own in rows],
                x_name="tokens of the module's corpus",
                y_name=f"{short}, own module",
            ),
        ),
        Figure(
            f"{upper_first(short)} and pieces per word",
            scatter(
                f"{short} against pieces per word",
                [(t, c, own) for t, _, c, _, _, own in rows],
                x_name="pieces per word",
                y_name=f"{short}, own module",
            ),
        ),
    ]
    if gains:
        figures.append(
            Figure(
                "Gain over no module and pieces per word",
                scatter(
                    "gain against pieces per word",
                    [(t, cut, gain) for t, _, cut, gain in gains],
                    x_name="pieces per word",
                    y_name=f"{short}, own module − none",
                ),
            )
        )
    table = Table(
        ["language", "tokens of its corpus", "pieces per word", "unknown tokens", "no module", "own module"],
        [
            [t, f"{n:,}", f"{c:.2f}", f"{u:.2%}", "–" if none is None else f"{none:.1f}", f"{own:.1f}"]
            for t, n, c, u, none, own in rows
        ],
    )
    return figures, table


def errors(record: RunRecord) -> list[Wrong]:
    """Of each language the errors under its own module (else the source's, else none), first seed; confusion over all seeds."""
    matrix, found = record.matrix, []
    kind = matrix.scored.kind
    for target in matrix.targets:
        control = next((c for c in ("target", "source", "none", *matrix.columns) if matrix.group(target, c)), None)
        cells = matrix.group(target, control) if control else []
        read = [(c, p) for c in cells if (p := record.prediction(target, control, c.seed)) is not None]
        if not read:
            continue
        cell, first = read[0]
        shown, wrong = examples(first.sentences, first.predicted, kind, most=EXAMPLES)
        counts = sum((confusion([s.tags for s in p.sentences], p.predicted, kind) for _, p in read), start=Counter())
        found.append(
            Wrong(
                target,
                cell.composition,
                cell.seed,
                len(first.sentences),
                wrong,
                shown,
                *_confusion(target, counts, len(read)),
            )
        )
    return found


def _confusion(target: str, counts: Counter, seeds: int) -> tuple[Figure, Table]:
    types = sorted({t for pair in counts for t in pair} - {MISSED, INVENTED})
    rows = types + [INVENTED] * any(g == INVENTED for g, _ in counts)
    columns = types + [MISSED] * any(p == MISSED for _, p in counts)
    totals = {gold: sum(counts[gold, p] for p in columns) for gold in rows}
    squares = [[_confused(gold, p, counts[gold, p], totals[gold]) for p in columns] for gold in rows]
    svg = heatmap(
        f"Confusion in {target}: gold rows, predicted columns",
        rows,
        columns,
        squares,
        low=0.0,
        high=1.0,
        cell=max(NARROW, 12 + 7 * max(map(len, columns))),
        row=28,
    )
    table = Table(
        ["gold \\ predicted", *columns], [[gold, *(f"{counts[gold, p]:,}" for p in columns)] for gold in rows]
    )
    return Figure(target, svg, "" if seeds == 1 else f"counts of {seeds} seeds together"), table


def _confused(gold: str, predicted: str, count: int, total: int) -> Square:
    share = count / total if total else 0.0
    if not count:
        return Square(None, "", hint=f"{gold} as {predicted}: never")
    return Square(share, f"{count:,}", hint=f"{gold} as {predicted}: {count:,} of {total:,} ({share:.0%})")


def compositions(matrix: TransferMatrix) -> list[dict]:
    """Each composition of the first seed as the engine explained it: sites with what acts there, in order."""
    first = {}
    for cell in sorted(matrix.cells, key=lambda c: c.seed):
        first.setdefault((cell.target, cell.control), cell)
    shown: dict[str, dict] = {}
    for (target, control), cell in first.items():
        entry = shown.setdefault(
            cell.composition, {"composition": cell.composition, "used": [], "rows": [], "silent": list(cell.silent)}
        )
        entry["used"].append(f"{target} {control}")
        if not entry["rows"] and (e := _explanation(cell.explanation)):
            entry["rows"] = [
                *((site, " then ".join(texts)) for site, texts in e.by_site()),
                ("decoder", e.decoder),
                ("head", e.head),
            ]
    return list(shown.values())


def _explanation(plain: dict | None) -> Explanation | None:
    """The engine's record; None where there is none, or one of another madx."""
    try:
        return Explanation.from_dict(plain) if plain else None
    except (TypeError, KeyError):
        return None


def module_table(record: RunRecord) -> Table | None:
    """The modules of the run and how they were trained."""
    rows = []
    for name, module in record.modules.items():
        t, corpus = module["training"], module["training"].get("corpus") or {}
        size = f"{corpus['tokens']:,} tokens" if corpus else "–"
        took = f"{t['seconds']:,.0f} s" if t.get("seconds") is not None else "–"
        rows.append(
            [
                name,
                module["role"],
                module.get("language") or "–",
                ", ".join(module["components"]),
                f"{t.get('steps', 0):,}",
                took,
                size,
                module.get("licence") or "–",
            ]
        )
    return (
        Table(["module", "role", "language", "components", "steps", "trained in", "corpus", "licence"], rows, 4)
        if rows
        else None
    )


def data_table(record: RunRecord) -> Table:
    """Files with their hashes: the test sets, and what the modules were trained on."""
    files = dict(record.matrix.meta.data)
    for module in record.modules.values():
        files |= {d["path"]: d.get("sha256") or "" for d in module["training"].get("data", []) if isinstance(d, dict)}
    return Table(["file", "sha256"], [[path, digest or "–"] for path, digest in files.items()], 9)


def context(record: RunRecord) -> dict:
    """Everything that the template shows."""
    matrix = record.matrix
    contrasts = matrix.differences()
    metric = matrix.scored.metrics[0]
    extra = [m for m in matrix.scored.metrics[1:] if m == "macro_f1"]
    fits, fit_table = against_language(record)
    versions = Table(["what", "version"], [list(item) for item in matrix.meta.versions.items()], 9)
    return {
        "meta": asdict(matrix.meta),
        "measure": matrix.scored.measure,
        "kind": matrix.scored.kind,
        "columns": {c: COLUMNS[c] for c in matrix.columns},
        "warnings": matrix.warnings(),
        "notes": [n.removeprefix("- ") for n in matrix.notes(contrasts)],
        "headline": headline(matrix, contrasts),
        "scores": [
            scores(matrix, metric, upper_first(matrix.scored.measure)),
            *(scores(matrix, m, "Macro F1") for m in extra),
        ],
        "score_tables": [score_table(matrix, m) for m in (metric, *extra)],
        "difference": differences(matrix, contrasts),
        "difference_table": pair_table(contrasts),
        "pairs": pair_table(matrix.pairs()),
        "per_type": per_type(matrix),
        "learning": learning(record),
        "fits": fits,
        "fit_table": fit_table,
        "errors": errors(record),
        "compositions": compositions(matrix),
        "modules": module_table(record),
        "data": data_table(record),
        "versions": versions,
    }
