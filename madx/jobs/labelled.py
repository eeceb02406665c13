"""Labelled data of a job: how its files are read, and what is recorded of them."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from madx.config import Settings
from madx.data.labelled.conll import read_conll
from madx.data.labelled.json_lines import read_json_lines
from madx.data.labelled.memory import read_dataset
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.spans import renamed
from madx.data.labelled.tags import Inventory, is_iob2
from madx.data.text.corpora import is_dataset, sha256_of
from madx.errors import ConfigError
from madx.tasks import TASKS
from madx.tasks.token_classification import TokenClassification

#: the ending of files with a JSON object a line, `{"tokens": [...], "tags": [...]}`; sentences in memory become such a
#: file
JSON_LINES = ".jsonl"
#: what a setting of labelled data may name
FORMS = "a CoNLL or CoNLL-U file, JSON lines with tokens and tags (.jsonl), or datasets:NAME[:CONFIG]:SPLIT"


class Columns(Settings):
    """How labelled files are read."""

    token: int | None = Field(
        default=None, description="Column of the word, from 0; negative: from the end; null: the first."
    )
    tag: int | None = Field(default=None, description="Column of the tag; null: the last.")
    separator: str | None = Field(default=None, description="tab or whitespace; null: found out.")
    scheme: Literal["auto", "iob1", "iob2", "bioes"] | None = Field(
        default="auto",
        description="How spans are tagged in the file; read into IOB2. null, or a task without spans: as they are.",
    )
    style: Literal["auto", "conll", "conllu"] = Field(
        default="auto",
        description="Plain columns, or CoNLL-U (form and UPOS); auto: CoNLL-U if the name ends in .conllu.",
    )
    repair: bool = Field(
        default=False, description="Mend invalid IOB2 (an I- that follows nothing) instead of refusing it."
    )
    ignore: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Entity types to leave out of gold tags and of scored predictions, e.g. [DATE] for MasakhaNER.",
    )
    map: dict[str, str] = Field(
        default={}, description="Entity types to rename in gold tags and in scored predictions, e.g. {PERSON: PER}."
    )

    @field_validator("map")
    @classmethod
    def _to_types(cls, given: dict[str, str]) -> dict[str, str]:
        for old, new in given.items():
            if new == "O" or not is_iob2(f"B-{new}"):
                raise ValueError(f"{old!r} cannot become {new!r}, which is no entity type; to leave it out, set ignore")
        return given


def task_type(name: str) -> type[TokenClassification]:
    """The class of a task that `madx tasks` lists. Raises ConfigError with the nearest name."""
    return TASKS.get(name)


def read_labelled(
    source: str, columns: Columns, task: type[TokenClassification], *, checked: bool = True
) -> list[Sentence]:
    """Read the sentences of a file or data set, tagged as the task wants. Raises DataError with file and line.

    checked: refuse tags that the task does not know, and bring spans to IOB2; otherwise tags are those of the file.
    """
    scheme, inventory = columns.scheme if checked and columns.scheme else "none", task.inventory if checked else None
    if inventory is not None:
        if scheme not in ("auto", "none") or columns.ignore or columns.map or columns.repair:
            raise ConfigError(
                f"columns of the task {task.name!r}: its tags are {inventory.name}, one for each word, and no spans; "
                "leave scheme, repair, ignore and map out."
            )
        scheme = "none"
    sentences = _read(source, columns, task, scheme=scheme, inventory=inventory)
    if not columns.ignore and not columns.map:
        return sentences
    return [replace(s, tags=tuple(renamed(s.tags, ignore=columns.ignore, names=columns.map))) for s in sentences]


def _read(
    source: str, columns: Columns, task: type[TokenClassification], *, scheme: str, inventory: Inventory | None
) -> list[Sentence]:
    if is_dataset(source):
        return read_dataset(
            source, tag_column=task.dataset_column, scheme=scheme, repair=columns.repair, inventory=inventory
        )
    if source.endswith(JSON_LINES):
        return read_json_lines(source, scheme=scheme, repair=columns.repair, inventory=inventory)
    return read_conll(
        source,
        token_column=columns.token,
        tag_column=columns.tag,
        separator=columns.separator,
        style=columns.style,
        scheme=scheme,
        repair=columns.repair,
        inventory=inventory,
    )


def file_sha256(path: str) -> str | None:
    """The sha256 of a file's bytes; None for a data set's name."""
    return None if is_dataset(path) else sha256_of(Path(path))
