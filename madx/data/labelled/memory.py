"""Labelled sentences from Python objects: pairs of words and tags, records, data sets of the `datasets` library."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from madx.data.labelled.sentences import Sentence, checked_tags
from madx.data.labelled.tags import Inventory
from madx.data.text.corpora import is_loaded_dataset, load_dataset, nfc
from madx.data.text.memory import items_of, sha256_of_lines
from madx.errors import DataError, did_you_mean

TAG_COLUMNS = ("ner_tags", "tags", "labels")  # the usual names of a column of tags


def sentences_of(
    data: Iterable[Any],
    *,
    token_column: str = "tokens",
    tag_columns: Sequence[str] = TAG_COLUMNS,
    scheme: str = "auto",
    repair: bool = False,
    inventory: Inventory | None = None,
    name: str = "the sentences",
) -> list[Sentence]:
    """Return sentences from Python objects, with tags that are checked as those of files are (see `read_conll`).

    data: a list or any iterable of pairs (words, tags), of `Sentence`, or of records (mappings) with a column of word
        lists and one of tag lists, such as the rows of a `datasets.Dataset`.
    token_column: the column of the words; tag_columns: the column of the tags is the first of these that a record has.
    scheme, repair, inventory: as for `read_conll`.
    name: the name of the data in messages.

    Tags are text, or numbers whose names the ClassLabel of a data set holds. Rows of a data set without words are left
    out. Raises DataError for any other item that is no sentence, with its index and what is wrong, and for empty data.

    >>> sentences_of([(["Ada", "Lovelace"], ["I-PER", "I-PER"])])[0].tags
    ('B-PER', 'I-PER')
    """
    reader = _Reader(name, token_column, tuple(tag_columns))
    return reader.read(data, scheme=scheme, repair=repair, inventory=inventory)


def read_dataset(
    name: str,
    *,
    token_column: str = "tokens",
    tag_column: str = "ner_tags",
    scheme: str = "auto",
    repair: bool = False,
    inventory: Inventory | None = None,
) -> list[Sentence]:
    """Return the sentences of `datasets:NAME[:CONFIG][:SPLIT]`, as `sentences_of` does; rows are counted from 1."""
    reader = _Reader(name, token_column, (tag_column,), counted_from=1)
    data = load_dataset(name, streaming=False)
    return reader.read(data, scheme=scheme, repair=repair, inventory=inventory)


def sha256_of_sentences(sentences: Iterable[Sentence]) -> str:
    """Return the sha256 of the words and tags of sentences in their order, for the record of a training run.

    It is the sha256 of a file that has each sentence as a JSON list `[words, tags]` on a line of its own.
    """
    return sha256_of_lines(json.dumps([s.tokens, s.tags], ensure_ascii=False) for s in sentences)


@dataclass(frozen=True)
class _Reader:
    """Turns items into sentences. Messages name an item by its index, or by its row where items count from 1."""

    name: str
    token_column: str
    tag_columns: tuple[str, ...]
    counted_from: int = 0

    def read(self, data: Any, *, scheme: str, repair: bool, inventory: Inventory | None) -> list[Sentence]:
        """Return the sentences with checked tags; `data` is anything that `sentences_of` takes."""
        loaded = is_loaded_dataset(data)
        class_names = _class_names(data) if loaded else {}
        sentences, numbers = [], []
        for number, item in enumerate(items_of(data, self.name, "sentences"), start=self.counted_from):
            place = partial(self._place, number)
            tokens, tags, names = self._words_and_tags(item, place(), class_names)
            _check_lists(tokens, tags, place())
            if not tokens and loaded:
                continue
            if not tokens:
                raise DataError(f"{place()}: a sentence without words. Leave it out.")
            words = tuple(_word(token, i, place, blank=loaded) for i, token in enumerate(tokens))
            names_of_tags = tuple(_tag(tag, i, place, names) for i, tag in enumerate(tags))
            line = item.line if isinstance(item, Sentence) and item.line else number
            sentences.append(Sentence(words, names_of_tags, line))
            numbers.append(number)
        if not sentences:
            raise DataError(f"{self.name}: the data is empty: nothing in it holds a word. Give at least one sentence.")
        return checked_tags(
            sentences,
            scheme=scheme,
            repair=repair,
            inventory=inventory,
            place=lambda sentence, word: f"{self._place(numbers[sentence], word)} {sentences[sentence].tokens[word]!r}",
        )

    def _place(self, number: int, word: int | None = None) -> str:
        if self.counted_from:
            return f"{self.name}, row {number}" + ("" if word is None else f", word {word + 1}")
        return f"{self.name}, item at index {number}" + ("" if word is None else f", word at index {word}")

    def _words_and_tags(self, item: Any, place: str, class_names: dict[str, list[str]]) -> tuple[Any, Any, list[str]]:
        """Return what an item holds as its words and its tags, and the names of numbered tags."""
        if isinstance(item, Sentence):
            return item.tokens, item.tags, []
        if isinstance(item, Mapping):
            column = _column(item, self.tag_columns, place)
            return item[_column(item, (self.token_column,), place)], item[column], class_names.get(column, [])
        if isinstance(item, tuple | list) and len(item) == 2:
            return *item, []
        raise DataError(
            f"{place}: {_shown(item)} is no sentence. Give a pair (words, tags), a Sentence, or a record with the "
            f"columns {self.token_column!r} and {self.tag_columns[0]!r}."
        )


def _class_names(data: Any) -> dict[str, list[str]]:
    """Return the names of the tags of each column of a data set whose lists hold a ClassLabel."""
    labels = {column: getattr(feature, "feature", None) for column, feature in (data.features or {}).items()}
    return {column: names for column, label in labels.items() if (names := getattr(label, "names", None))}


def _column(record: Mapping[str, Any], wanted: tuple[str, ...], place: str) -> str:
    """Return the first of some columns that a record has."""
    for column in wanted:
        if column in record:
            return column
    raise DataError(
        f"{place}: no column {' or '.join(map(repr, wanted))}; {did_you_mean(wanted[0], record)}. "
        "Rename the column, or set token_column or tag_column."
    )


def _check_lists(tokens: Any, tags: Any, place: str) -> None:
    for values, kind in ((tokens, "words"), (tags, "tags")):
        if not isinstance(values, tuple | list):
            raise DataError(f"{place}: the {kind} are {_shown(values)}, not a list. Give a list of strings.")
    if len(tokens) != len(tags):
        raise DataError(f"{place}: {len(tokens)} words, but {len(tags)} tags. Give one tag for each word.")


def _word(token: Any, index: int, place: Callable[..., str], *, blank: bool) -> str:
    """Return a word in NFC; `blank`: whether it may consist of white space alone."""
    if not isinstance(token, str):
        raise DataError(f"{place(index)}: {_shown(token)} is no text. Give each word as a string.")
    if not blank and not token.strip():
        raise DataError(f"{place(index)}: {token!r} is an empty word. Leave it and its tag out.")
    return token if token.isascii() else nfc(token, place(index))


def _tag(tag: Any, index: int, place: Callable[..., str], names: list[str]) -> str:
    if isinstance(tag, str):
        return tag
    if isinstance(tag, bool) or not isinstance(tag, int) or not 0 <= tag < len(names):
        raise DataError(
            f"{place(index)}: tag {_shown(tag)} is no text. Allowed: strings, or numbers of a ClassLabel, which here "
            f"has {len(names)} names."
        )
    return names[tag]


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
