"""Numbers and tables as text."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from madx.outside import visible
from madx.results.cells import AVERAGE, Row

#: a bar in a cell that would end it
_BAR = re.compile(r"(?<!\\)\|")
#: beginnings of a formula in Excel, LibreOffice and Google Sheets; the last four are the wide forms of the first four
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def score_text(mean: float | None, sd: float | None) -> str:
    """`82.1 ± 0.6`; without deviation (one seed) `82.1`; without score `-`."""
    if mean is None:
        return "-"
    return f"{mean:.1f}" if sd is None else f"{mean:.1f} ± {sd:.1f}"


def over_text(row: Row, rows: Sequence[Row]) -> str:
    """` (3)`, the number of languages of an average, where another average of its row is over others; else nothing."""
    differ = len({r.over for r in rows if r.mean is not None and r.target == AVERAGE}) > 1
    return f" ({row.languages})" if differ and row.target == AVERAGE and row.mean is not None else ""


def signed(value: float) -> str:
    """`+3.2`, `-0.4`, and never `-0.0`."""
    return f"{round(value, 1) + 0.0:+.1f}"


def interval_text(low: float | None, high: float | None, *, none: str = "-") -> str:
    """`-0.3 to +2.7`; without an interval the text `none`."""
    return none if low is None or high is None else f"{signed(low)} to {signed(high)}"


def upper_first(text: str) -> str:
    """`entity F1` -> `Entity F1`."""
    return text[:1].upper() + text[1:]


def amount(value: float | None, unit: str) -> str:
    """`7.67 MB`, `1.2 T`: three digits and a power of a thousand; `-` for None.

    >>> amount(7_667_712, "B"), amount(999.6, "B"), amount(0, "B")
    ('7.67 MB', '1 kB', '0 B')
    """
    if value is None:
        return "-"
    power = 0
    while power < 6 and float(f"{value:.3g}") >= 1000:
        value, power = value / 1000, power + 1
    return f"{float(f'{value:.3g}'):g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}{unit}".rstrip()


def markdown_table(head: Sequence[str], lines: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table in Markdown whose columns are padded to equal width, so that its source reads well too.

    The first `text_columns` columns stand to the left, the others, which hold numbers, to the right. Cells are
    Markdown, so text from outside goes through `madx.outside.markdown` before.
    """
    cells = [[_BAR.sub(r"\\|", cell) for cell in line] for line in (head, *lines)]
    widths = [max(3, *(len(line[i]) for line in cells)) for i in range(len(head))]
    rule = ["-" * w if i < text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def row(line: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < text_columns else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))]
        return f"| {' | '.join(padded)} |"

    return "\n".join([row(cells[0]), row(rule), *map(row, cells[1:])])


def csv_text(head: Sequence[str], lines: Iterable[Mapping[str, object]]) -> str:
    """Lines as CSV under a head; a column that a line lacks is empty there. Text that a spreadsheet would run as a
    formula is quoted by an apostrophe, in the head too; numbers stay as they are.

    >>> print(csv_text(["type", "delta"], [{"type": "=1+1", "delta": -0.5}]), end="")
    type,delta
    '=1+1,-0.5
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([_csv_cell(name) for name in head])
    writer.writerows([_csv_cell(line.get(name, "")) for name in head] for line in lines)
    return out.getvalue()


def _csv_cell(value: object) -> object:
    """A value for a cell. Spreadsheets take text that begins with one of `_FORMULA` for a formula (CWE-1236)."""
    if not isinstance(value, str):
        return value
    shown = visible(value)
    return f"'{shown}" if value.startswith(_FORMULA) else shown


def terminal_table(title: Text, caption: Text | None = None) -> Table:
    """An empty table for the terminal in the one style of all reports; a narrow terminal folds numbers, never crops
    them."""
    return Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
