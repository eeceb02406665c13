"""Labelled data of a job: how its files are read, and what is recorded of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from madx.config import Settings
from madx.data.labelled.conll import read_conll
from madx.data.labelled.json_lines import read_json_lines
from madx.data.labelled.memory import read_dataset
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.spans import renamed
from madx.data.labelled.tags import Inventory, is_span_tag
from madx.data.labelled.words import checked_words
from madx.data.text.corpora import is_dataset
from madx.data.text.files import plain_name, sha256_of
from madx.errors import ConfigError, did_you_mean
from madx.tasks import TASKS
from madx.tasks.token_classification import TokenClassification

#: the endings of files with a JSON object a line, `{"tokens": [...], "tags": [...]}`; sentences in memory become such a
#: file
JSON_LINES = (".jsonl", ".ndjson", ".json")
#: what a setting of labelled data may name
FORMS = "a CoNLL or CoNLL-U file, JSON lines with tokens and tags (.jsonl), or datasets:NAME[:CONFIG]:SPLIT"


class Columns(Settings):
    """How labelled files are read."""

    token: int | None = Field(
        default=None,
        description="Column of the word, from 0; negative: from the end; null: the first, or found out.",
    )
    tag: int | None = Field(default=None, description="Column of the tag; null: the last, or found out.")
    separator: str | None = Field(default=None, description="tab or whitespace; null: found out.")
    scheme: Literal["auto", "iob1", "iob2", "bioes"] | None = Field(
        default="auto",
        description="How spans are tagged in the file; read into IOB2. null, or a task without spans: as they are.",
    )
    style: Literal["auto", "conll", "conllu", "conll2012"] = Field(
        default="auto",
        description="Plain columns, CoNLL-U (form and UPOS), or CoNLL-2012 and OntoNotes (word and names); auto: found "
        "out.",
    )
    prefix: str | None = Field(
        default=None,
        description="Text to remove before each word, e.g. 'en:'; '': none; null: the code of a language if nearly all "
        "words have one (WikiANN).",
    )
    detect: bool = Field(
        default=True,
        description="Find out known layouts, and refuse a column of words that holds numbers, tags or one value.",
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
        default={},
        description="Entity types to rename in gold tags and in scored predictions, e.g. {PERSON: PER}; or plain tags "
        "to rename in the data.",
    )


def task_type(name: str) -> type[TokenClassification]:
    """The class of a task that `madx tasks` lists. Raises ConfigError with the nearest name."""
    return TASKS.get(name)


def read_labelled(
    source: str, columns: Columns, task: type[TokenClassification], *, checked: bool = True
) -> list[Sentence]:
    """Read the sentences of a file or data set, tagged as the task wants. Raises DataError with file and line.

    checked: refuse tags that the task does not know, and bring spans to IOB2; otherwise tags are those of the file.
    """
    inventory = task.inventory
    _check_columns(columns, task)
    if inventory is not None:
        inventory = inventory._replace(tags=(*inventory.tags, *columns.map))
    spans = inventory is None and columns.scheme is not None
    sentences = _read(
        source,
        columns,
        task,
        spans=spans,
        scheme=(columns.scheme or "none") if checked and spans else "none",
        inventory=inventory if checked else None,
    )
    sentences = checked_words(sentences, name=source, prefix=columns.prefix, detect=columns.detect)
    return [replace(s, tags=_renamed(s.tags, columns, spans=spans)) for s in sentences]


def _check_columns(columns: Columns, task: type[TokenClassification]) -> None:
    """Raise ConfigError for settings of columns that do not fit the task."""
    inventory = task.inventory
    if inventory is None:
        wrong = [(old, new) for old, new in columns.map.items() if not is_span_tag(f"B-{new}") or is_span_tag(new)]
        if wrong and columns.scheme is not None:
            old, new = wrong[0]
            raise ConfigError(
                f"columns.map reads {old!r} as {new!r}, which is no type of an entity. Give the type without its "
                "letter, as in {PERSON: PER}; a type to be read as O goes into columns.ignore."
            )
        return
    if columns.scheme not in ("auto", None) or columns.ignore or columns.repair:
        raise ConfigError(
            f"columns of the task {task.name!r}: its tags are {inventory.name}, one for each word, and no spans; "
            "leave scheme, repair and ignore out."
        )
    for old, new in columns.map.items():
        if new not in inventory.tags:
            raise ConfigError(f"columns.map reads {old!r} as {new!r}: {did_you_mean(new, inventory.tags)}")


def _renamed(tags: Sequence[str], columns: Columns, *, spans: bool) -> tuple[str, ...]:
    """Return tags by the settings `map` and `ignore`."""
    if not spans:
        tags = [columns.map.get(tag, tag) for tag in tags]
    return tuple(renamed(tags, ignore=columns.ignore, names=columns.map))


def _read(
    source: str,
    columns: Columns,
    task: type[TokenClassification],
    *,
    spans: bool,
    scheme: str,
    inventory: Inventory | None,
) -> list[Sentence]:
    if is_dataset(source):
        return read_dataset(
            source, tag_column=task.dataset_column, scheme=scheme, repair=columns.repair, inventory=inventory
        )
    if plain_name(source).endswith(JSON_LINES):
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
        detect=columns.detect,
        spans=spans,
    )


def file_sha256(path: str) -> str | None:
    """The sha256 of a file's bytes; None for a data set's name."""
    return None if is_dataset(path) else sha256_of(Path(path))
