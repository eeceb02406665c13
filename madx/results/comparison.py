"""Module types and baselines beside each other on five axes: storage, training memory, training compute, accuracy, and
inference overhead (the axes of Pfeiffer et al. 2023, arXiv:2302.11529). Pure data: no engine, no model."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np

from madx.metrics.significance import seed_difference

NOTES = (
    "storage: bytes of the stored module. memory: peak of a few training steps above the loaded base, in a process of its own.",
    "operations: matrix products of the whole training, forward and backward, all phases. s/step: median over rounds in which "
    "every candidate has its turn.",
    "score: on the development data, at the best evaluation; mean ± standard deviation over seeds. * best; ≈ not told from the "
    "best: the 95 % t interval over seeds contains 0, or there is one seed.",
    "inference: time over the bare base's, median of rounds (middle half of the rounds).",
)


@dataclass(frozen=True)
class Candidate:
    """What was measured of one candidate; None or empty where it failed before.

    storage, memory: bytes; flops: of a whole training of `steps` steps; seconds: of a step, one for each round; scores: by seed;
    inference: time over the bare base's, one for each round; modules: names in the store.
    """

    name: str
    parameters: int | None = None
    storage: int | None = None
    memory: int | None = None
    flops: float | None = None
    steps: int | None = None
    seconds: Sequence[float] = ()
    scores: dict[int, float] = field(default_factory=dict)
    inference: Sequence[float] = ()
    modules: Sequence[str] = ()
    failure: str = ""

    @property
    def mean(self) -> float | None:
        """Mean score over the seeds."""
        return fmean(self.scores.values()) if self.scores else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over the seeds, with n - 1."""
        return stdev(self.scores.values()) if len(self.scores) > 1 else None


def spread(values: Sequence[float]) -> tuple[float, float, float] | None:
    """(median, first quartile, third quartile); None without values."""
    if not values:
        return None
    low, high = np.quantile(np.asarray(values, dtype=float), [0.25, 0.75])
    return median(values), float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """The candidates in their order; metric: the figure of the task that `scores` holds."""

    candidates: tuple[Candidate, ...]
    task: str
    metric: str
    base: str
    note: str
    versions: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    device: str = ""

    def best(self) -> Candidate | None:
        """The candidate with the highest mean score."""
        scored = [c for c in self.candidates if c.scores]
        return max(scored, key=lambda c: c.mean) if scored else None

    def like_the_best(self) -> set[str]:
        """Names of those whose score the seeds do not tell from the best one's."""
        best, found = self.best(), set()
        for c in self.candidates:
            seeds = [s for s in c.scores if best is not None and s in best.scores]
            if seeds and c is not best:
                difference = seed_difference([best.scores[s] for s in seeds], [c.scores[s] for s in seeds])
                found |= {c.name} if difference.noise else set()
        return found

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and lines, as text."""
        head = ["", "parameters", "storage", "memory", "operations", "s/step", self.metric, "inference"]
        best, like = self.best(), self.like_the_best()
        lines = []
        for c in self.candidates:
            mark = "*" if c is best else "≈" if c.name in like else ""
            score = "-" if c.mean is None else mark + f"{c.mean:.1f}" + ("" if c.sd is None else f" ± {c.sd:.1f}")
            seconds, inference = spread(c.seconds), spread(c.inference)
            lines.append(
                [
                    c.name,
                    "-" if c.parameters is None else f"{c.parameters:,}",
                    amount(c.storage, "B"),
                    amount(c.memory, "B"),
                    amount(c.flops, ""),
                    "-" if seconds is None else f"{seconds[0]:.3g}",
                    score,
                    "-" if inference is None else f"{inference[0]:.2f} ({inference[1]:.2f} to {inference[2]:.2f})",
                ]
            )
        return head, lines

    def failures(self) -> list[str]:
        """A line for every candidate that failed."""
        return [f"{c.name}: {c.failure}" for c in self.candidates if c.failure]

    def rich(self):
        """For the terminal."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        head, lines = self.table()
        table = Table(
            title=Text(f"{self.task} on {self.base}", style="bold"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            show_edge=False,
        )
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if number else "left", overflow="fold")
        for line in lines:
            table.add_row(*map(Text, line))
        notes = [*NOTES, *([self.note] if self.note else [])]
        failed = [Text(f"FAILED: {line}", style="bold red") for line in self.failures()]
        return Group(table, Text(""), *(Text(note, style="dim") for note in notes), *failed)

    def to_markdown(self) -> str:
        """The same as text."""
        from madx.report.tables import markdown_table

        parts = [f"# {self.task} on `{self.base}`" + (f"\n\n{self.note}" if self.note else "")]
        parts += [f"> 🔴 **failed:** {line}" for line in self.failures()]
        parts += [markdown_table(*self.table()), "\n".join(f"- {note}" for note in NOTES)]
        sources = [f"- data `{file}`: sha256 `{mark}`" for file, mark in self.data.items()]
        sources += [f"- {library} {version}" for library, version in self.versions.items()]
        parts.append(f"## Made from\n\n- device {self.device}\n" + "\n".join(sources))
        return "\n\n".join(parts) + "\n"

    def to_json(self) -> str:
        """Everything that was measured, every round of it, and what the tables say of it."""
        rows = [
            asdict(c)
            | {"mean": c.mean, "sd": c.sd, "seconds_median": spread(c.seconds), "inference_median": spread(c.inference)}
            for c in self.candidates
        ]
        head = {
            "format": "madx comparison",
            "version": 1,
            **{k: v for k, v in asdict(self).items() if k != "candidates"},
        }
        return json.dumps(head | {"candidates": rows}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, folder: str | Path) -> list[Path]:
        """Write comparison.json, comparison.md and comparison.png; each appears whole or not at all."""
        from madx.report.comparison_picture import picture_png  # matplotlib takes half a second to import
        from madx.results.json import write_files

        contents = {
            "comparison.json": self.to_json().encode(),
            "comparison.md": self.to_markdown().encode(),
            "comparison.png": picture_png(self),
        }
        return write_files(contents, folder, what="the comparison")


def amount(value: float | None, unit: str) -> str:
    """`7.7 MB`, `1.2 T`: three digits and a power of a thousand.

    >>> amount(7_667_712, "B"), amount(999.6, "B"), amount(0, "B")
    ('7.67 MB', '1 kB', '0 B')
    """
    if value is None:
        return "-"
    power = 0
    while power < 6 and float(f"{value:.3g}") >= 1000:
        value, power = value / 1000, power + 1
    return f"{float(f'{value:.3g}'):g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}{unit}".rstrip()
