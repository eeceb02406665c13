"""The pieces of a transfer matrix: one scored prediction (`Cell`), a place without a score (`Missing`), a line of the
table (`Row`), and where all of it comes from (`Meta`). Scores are percent points, 0..100."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, NamedTuple

from madx.data.labelled.spans import SCORINGS, Scoring
from madx.errors import DataError, did_you_mean
from madx.metrics.scores import Scores

#: The four controls differ only in the language module under the task module. Without them nobody can tell the gain of
#: the target's own module from what any other module gives, or none.
CONTROLS = {
    "none": "no language module",
    "source": "the source language's module, kept",
    "target": "the target language's module",
    "mean": "the mean of the other languages' modules",
}
#: Further columns: what stands in for the module of a language that has none.
PROXIES = {
    "nearest": "the module of the most similar other language",
    "weighted": "the mean of the other languages' modules, weighted by similarity",
    "arithmetic": "share * target's module + (1 - share) * the module of a related language; "
    "for a target without a module: of the related language and the source",
    "emea": "the mean of the other languages' modules, weighted for each sentence to lower its predictions' entropy",
}
COLUMNS = CONTROLS | PROXIES
#: the controls that the target's module is compared with
BASELINES = ("none", "source", "mean")
#: the name of the last row
AVERAGE = "average"


def _check_column(name: str) -> None:
    if name not in COLUMNS:
        raise DataError(f"unknown control {name!r}: {did_you_mean(name, COLUMNS)}")


def _plain(what: str, value: Any) -> Any:
    """The value as JSON gives it back, so that a matrix that was read equals the one that was written."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} cannot be written as JSON ({error}); use dicts, lists, text, finite numbers") from None


@dataclass(frozen=True)
class Cell:
    """The scores of one prediction of a target language's test set.

    target: the language, e.g. `swa`.
    control: the column, one of `COLUMNS`.
    composition: as text, `swa + ner@1`.
    seed: the seed of the task module.
    scores: of all sentences, with the counts of each sentence.
    explanation: the engine's record of which modules acted (`Explanation.as_dict`), or None without a record. Its list
        `inactive` names the modules that should have acted and did not.

    Raises DataError on an unknown control, a language called `average`, or an explanation that JSON cannot hold.
    """

    target: str
    control: str
    composition: str
    seed: int
    scores: Scores
    explanation: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_column(self.control)
        if self.target == AVERAGE:
            raise DataError(f"a language cannot be called {AVERAGE!r}, the name of the last row; use an ISO 639-3 code")
        explanation = _plain(f"the explanation of {self.target}, {self.control}", self.explanation)
        if explanation is not None and not (
            isinstance(explanation, dict) and isinstance(explanation.get("inactive", []), list)
        ):
            raise DataError(
                f"explanation must be a dict whose 'inactive' is a list of module names, got {explanation!r}"
            )
        object.__setattr__(self, "explanation", explanation)

    @property
    def inactive(self) -> tuple[str, ...]:
        """The modules that should have acted in this prediction and did not."""
        return tuple(map(str, (self.explanation or {}).get("inactive", [])))

    @property
    def sentences(self) -> int:
        """The number of sentences in the test set."""
        return self.scores.sentences


@dataclass(frozen=True)
class Missing:
    """A place without a score, with the reason: `no module for 'hau' in the store`. Raises DataError on an unknown
    control."""

    target: str
    control: str
    reason: str

    def __post_init__(self) -> None:
        _check_column(self.control)


@dataclass(frozen=True)
class Meta:
    """The origin of the scores.

    task_module: its name, without a seed.
    source: the source language; several are separated by ", ".
    base: the frozen model.
    data: file -> sha256.
    versions: library -> version.
    note: a remark that every report prints.
    scoring: the reading of an I- that continues nothing, in scores of entities (`madx.data.labelled.spans`).
    remarks: what a reader of the scores should know about the data, each one line, which every report prints.

    Raises DataError on an unknown reading, and on remarks that are no lines of text.
    """

    task_module: str
    source: str
    base: str
    data: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""
    scoring: Scoring = "strict"
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("data", "versions"):
            object.__setattr__(self, name, _plain(f"meta.{name}", getattr(self, name)))
        if self.scoring not in SCORINGS:
            raise DataError(f"unknown scoring {self.scoring!r}: {did_you_mean(str(self.scoring), SCORINGS)}")
        remarks = self.remarks
        if isinstance(remarks, str) or not all(isinstance(remark, str) for remark in remarks):
            raise DataError(f"the remarks of a matrix must be a list of texts, got {remarks!r}")
        object.__setattr__(self, "remarks", tuple(remarks))

    @property
    def sources(self) -> tuple[str, ...]:
        """The source languages, one by one."""
        return tuple(self.source.split(", "))


@dataclass(frozen=True)
class Row:
    """One place of the table: the mean over n seeds, and the standard deviation with n - 1 (None for one seed).

    Without a score the mean is None and `reason` says why. inactive: modules that did not act in one of the
    predictions. languages: the number of languages in a row of the average, else 1. over: these languages.
    """

    target: str
    control: str
    mean: float | None
    sd: float | None
    n: int
    inactive: tuple[str, ...] = ()
    reason: str = ""
    languages: int = 1
    over: tuple[str, ...] = ()


#: (language, control) -> seed -> cell
Groups = Mapping[tuple[str, str], Mapping[int, Cell]]


class BySeed(NamedTuple):
    """scores: seed -> mean over some languages; inactive: the modules that did not act in one of their predictions."""

    scores: dict[int, float]
    inactive: tuple[str, ...]


def macro(groups: Groups, languages: Iterable[str], *, control: str, metric: str) -> BySeed:
    """The mean score over languages under one control, for each seed that all of these languages have."""
    chosen = [groups.get((language, control), {}) for language in languages]
    seeds = sorted(set.intersection(*map(set, chosen))) if chosen else []
    inactive = dict.fromkeys(name for cells in chosen for seed in seeds for name in cells[seed].inactive)
    scores = {seed: fmean(getattr(cells[seed].scores, metric) for cells in chosen) for seed in seeds}
    return BySeed(scores, tuple(inactive))
