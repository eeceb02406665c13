"""The record of a training in `module.json`, key `training`: where the module's weights come from.

The jobs, the imports and the hub write the keys below, and each of them has a type that is checked whenever a record is
written or read. A user may add other keys, which hold any JSON. All keys are optional: a module that was never trained
has an empty record.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, ConfigDict, FailFast, Field
from typing_extensions import NotRequired, TypedDict

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
T = TypeVar("T")
#: a list of which the first wrong item is named: a damaged one can have millions
Items = Annotated[list[T], FailFast()]
#: JSON has no number for the last three; see `madx.store.module_json`
Score = int | float | Literal["inf", "-inf", "nan"]
#: the scores under these names are always a table: metric -> score
TABLES = ("held_out_before", "held_out_after", "dev")

_OPEN = ConfigDict(extra="allow", strict=True)


class DataFile(TypedDict):
    """A file of training data. A data set of the hub has no sha256, since its content lies elsewhere."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    path: str
    sha256: NotRequired[Sha256 | None]
    bytes: NotRequired[Count | None]


class Imported(TypedDict):
    """The foreign file that a module was imported from: the name of its format and the file's sha256."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    format: str
    sha256: NotRequired[Sha256]


class Pulled(TypedDict):
    """The place on the hub that a module was pulled from: address of the hub, repository, full commit, name there."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    hub: str
    repository: str
    revision: str
    name: str


def _tables(scores: dict[str, Any]) -> dict[str, Any]:
    for name in TABLES:
        if not isinstance(scores.get(name, {}), dict):
            raise ValueError(f"{name} is {scores[name]!r}; expected metrics with their scores, e.g. {{'f1': 66.5}}")
    return scores


class TrainingRecord(TypedDict, total=False):
    """All that is recorded of a training.

    job: the job that trained the module; settings: the job's, as in YAML; data: files, those of development last;
    datasets: data sets of the hub; corpus: counts over a corpus; steps, best_step: optimiser steps; seconds: wall time;
    composition: the composition in training; sources: language -> compositions that its batches were trained under;
    language_modules: name -> sha256 of the weights; language_module: that of a single one; mlm_head: that of the head
    of `madx train-head` that a language module was trained with; explanation: what `Engine.explain` said; versions:
    package -> version; scores: part of the data -> metric -> score; history: one table for each evaluation; imported,
    pulled: where a module came from that was not trained here.
    """

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    job: str
    settings: dict[str, Any]
    data: Items[DataFile]
    datasets: Items[str]
    corpus: dict[str, int | float]
    seed: int
    steps: Count
    best_step: Count
    seconds: float
    precision: str
    composition: str
    sources: dict[str, Items[str]]
    language_modules: dict[str, Sha256]
    language_module: Sha256 | None
    mlm_head: Sha256
    explanation: dict[str, Any]
    versions: dict[str, str]
    scores: Annotated[dict[str, Score | dict[str, Score]], AfterValidator(_tables)]
    history: Items[dict[str, Any]]
    imported: Imported
    pulled: Pulled
