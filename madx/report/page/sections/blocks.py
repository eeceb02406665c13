"""The blocks that sections are made of."""

from dataclasses import dataclass, field

from madx.report.page.svg import Svg


@dataclass
class Figure:
    """A picture with a heading; `note` stands below it."""

    heading: str
    svg: Svg
    note: str = ""


@dataclass
class Table:
    """Cells as text under a header.

    numbers: the first column that holds figures, which stand to the right. strong: the rows to print bold.
    """

    header: list[str]
    rows: list[list[str]]
    numbers: int = 1
    strong: list[int] = field(default_factory=list)
