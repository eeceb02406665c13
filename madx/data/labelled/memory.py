"""Labelled sentences in memory: pairs of words and tags, `Sentence` objects, or a data set of `datasets`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from unicodedata import normalize

from madx.data.labelled.conll import Sentence, _checked
from madx.data.labelled.tags import Inventory
from madx.data.text.memory import is_dataset_object
from madx.errors import DataError

TOKENS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "pos_tags", "upos")


def sentences_of(data: Any) -> list[Sentence]:
    """Sentences from a list of `(tokens, tags)` or `Sentence`, of mappings with `tokens` and `tags`, or a data set
    with the columns `tokens` and `ner_tags` (or another of `TAGS`), numbers being read by the names of its ClassLabel.

    Words and tags are taken as they are; `line` counts the sentences from 1. Raises DataError for anything else.

    >>> sentences_of([(["Juma", "anaishi"], ["B-PER", "O"])])[0].tags
    ('B-PER', 'O')
    """
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise DataError(f"labelled sentences are needed, as (tokens, tags) each; given: {type(data).__name__}.")
    rows = _rows(data) if is_dataset_object(data) else data
    return [_sentence(row, number) for number, row in enumerate(rows, start=1)]


def _sentence(row: Any, number: int) -> Sentence:
    if isinstance(row, Sentence):
        tokens, tags = row.tokens, row.tags
    elif isinstance(row, Mapping):
        tokens, tags = (row.get(_named(row, names, number)) for names in (TOKENS, TAGS))
    else:
        try:
            tokens, tags = row
        except (TypeError, ValueError):
            raise DataError(f"sentence {number}: not a pair (tokens, tags) but {str(row)[:60]!r}.") from None
    for name, column in (("tokens", tokens), ("tags", tags)):
        if not isinstance(column, (list, tuple)) or not all(isinstance(each, str) for each in column):
            raise DataError(f"sentence {number}: {name} must be a list of text, not {str(column)[:60]!r}.")
    if len(tokens) != len(tags):
        raise DataError(f"sentence {number}: {len(tokens)} tokens but {len(tags)} tags; each token needs a tag.")
    return Sentence(tuple(tokens), tuple(tags), number)


def _named(row: Any, names: tuple[str, ...], number: int) -> str:
    found = [name for name in names if name in row]
    if len(found) != 1:
        raise DataError(
            f"sentence {number}: one of {', '.join(names)} is needed; there {'is' if len(found) == 1 else 'are'} "
            f"{', '.join(found) or 'none'}, of the columns {', '.join(map(str, row))}."
        )
    return found[0]


def _rows(data: Any) -> Iterator[Any]:
    features = data.features or {}
    for row in data:
        record = dict(row)
        for name in TAGS:
            names = getattr(getattr(features.get(name), "feature", None), "names", None)
            if names and name in record:
                record[name] = [names[tag] if isinstance(tag, int) else tag for tag in record[name]]
        yield record


def read_labelled_memory(
    data: Any, *, source: str, scheme: str = "auto", repair: bool = False, inventory: Inventory | None = None
) -> list[Sentence]:
    """Sentences in memory with tags as a file's are read: spans in IOB2, or tags of an inventory. `source` names the
    data in errors, as `source:number`. Raises DataError as `read_conll` does."""
    sentences = [
        replace(s, tokens=tuple(normalize("NFC", t) for t in s.tokens)) for s in sentences_of(data) if s.tokens
    ]
    if not sentences:
        raise DataError(f"{source}: no sentence holds a word.")

    def where(sentence: int, word: int) -> str:
        return f"{source}:{sentences[sentence].line}, word {word + 1}"

    return _checked(sentences, scheme=scheme, repair=repair, inventory=inventory, where=where)
