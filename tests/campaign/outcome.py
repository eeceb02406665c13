"""Outcomes of attempts, and their counts."""

from collections import Counter
from dataclasses import dataclass, field

#: outcome -> its meaning; those below the line are faults of madx
FINE = {
    "equal": "completed or read with the same values",
    "refused": "refused by a MadxError",
    "anew": "a damaged file was told and made anew, with the same values",
    "told": "read with other values, and a message says so",
    "other": "read with other values; the format has no checksum that could tell",
}
FAULTS = {
    "lost": "something that was stored before is gone or damaged",
    "silent": "other values without a word, although a checksum or a repeated run should tell",
    "exception": "an error that is not a MadxError, or a crash",
    "slow": "more than 10 s of computing, or no end at all",
    "big": "more than 1 GB of memory or of files",
    "raw": "text from outside reaches a terminal, a page or a table as a command",
    "long": "a message of more than 20,000 characters",
    "left": "a temporary file is left behind by a run that completed",
}
OUTCOMES = FINE | FAULTS


@dataclass(frozen=True)
class Attempt:
    """The outcome of one attempt.

    part, subject: what was tried on what. number: by which it can be repeated. how: what was done to it. said: the
    error or the difference. kills: processes that were killed for it.
    """

    part: str
    subject: str
    number: int
    outcome: str
    how: str = ""
    said: str = ""
    seconds: float = 0.0
    kills: int = 0

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"no outcome {self.outcome!r}; known: {', '.join(OUTCOMES)}")

    @property
    def fault(self) -> bool:
        """True if madx did wrong."""
        return self.outcome in FAULTS


@dataclass
class Tally:
    """Counts of outcomes by part and subject, and every fault. kills: processes that were killed."""

    counts: dict[tuple[str, str], Counter[str]] = field(default_factory=dict)
    faults: list[Attempt] = field(default_factory=list)
    kills: int = 0

    def add(self, attempt: Attempt) -> None:
        """Count an attempt."""
        self.kills += attempt.kills
        self.counts.setdefault((attempt.part, attempt.subject), Counter())[attempt.outcome] += 1
        if attempt.fault:
            self.faults.append(attempt)

    def total(self, part: str) -> Counter[str]:
        """The outcomes of a part over its subjects."""
        return sum((counter for (of, _), counter in self.counts.items() if of == part), Counter())
