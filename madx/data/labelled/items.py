"""Items -> labelled sentences: what `memory` and `json_lines` have in common."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from madx.data.labelled.sentences import Sentence, checked_tags
from madx.data.labelled.tags import Inventory
from madx.data.text.corpora import nfc
from madx.errors import DataError, did_you_mean


@dataclass(frozen=True)
class ItemReader:
    """Turns pairs (words, tags), records and `Sentence` objects into sentences with checked tags.

    place: gives the name of a place for a message, from the number of an item and the index of a word in it, or None.
    token_column: the column of the words in a record; tag_columns: that of the tags is the first of these it has.
    class_names: the names of tags that are numbers, by column.
    lenient: whether items without words are left out, and blank words allowed; otherwise both raise DataError.
    """

    place: Callable[[int, int | None], str]
    token_column: str = "tokens"
    tag_columns: tuple[str, ...] = ("tags",)
    class_names: Mapping[str, list[str]] = field(default_factory=dict)
    lenient: bool = False

    def read(
        self, items: Iterable[tuple[int, Any]], *, scheme: str, repair: bool, inventory: Inventory | None
    ) -> list[Sentence]:
        """Return the sentences of numbered items; the list may be empty. See `read_conll` for the settings."""
        sentences, numbers = [], []
        for number, item in items:
            place = partial(self.place, number)
            tokens, tags, names = self._words_and_tags(item, place(None))
            _check_lists(tokens, tags, place(None))
            if not tokens and self.lenient:
                continue
            if not tokens:
                raise DataError(f"{place(None)}: a sentence without words. Leave it out.")
            words = tuple(_word(token, i, place, blank=self.lenient) for i, token in enumerate(tokens))
            line = item.line if isinstance(item, Sentence) and item.line else number
            sentences.append(Sentence(words, tuple(_tag(tag, i, place, names) for i, tag in enumerate(tags)), line))
            numbers.append(number)
        return checked_tags(
            sentences,
            scheme=scheme,
            repair=repair,
            inventory=inventory,
            place=lambda sentence, word: f"{self.place(numbers[sentence], word)} {sentences[sentence].tokens[word]!r}",
        )

    def _words_and_tags(self, item: Any, place: str) -> tuple[Any, Any, list[str]]:
        """Return what an item holds as its words and its tags, and the names of tags that are numbers."""
        if isinstance(item, Sentence):
            return item.tokens, item.tags, []
        if isinstance(item, Mapping):
            column = _column(item, self.tag_columns, place)
            return item[_column(item, (self.token_column,), place)], item[column], self.class_names.get(column, [])
        if isinstance(item, tuple | list) and len(item) == 2:
            return *item, []
        raise DataError(
            f"{place}: {_shown(item)} is no sentence. Give a pair (words, tags), a Sentence, or a record with the "
            f"columns {self.token_column!r} and {self.tag_columns[0]!r}."
        )


def _column(record: Mapping[str, Any], wanted: tuple[str, ...], place: str) -> str:
    """Return the first of some columns that a record has."""
    for column in wanted:
        if column in record:
            return column
    raise DataError(
        f"{place}: no column {' or '.join(map(repr, wanted))}; {did_you_mean(wanted[0], record)}. Rename the column."
    )


def _check_lists(tokens: Any, tags: Any, place: str) -> None:
    for values, kind in ((tokens, "words"), (tags, "tags")):
        if not isinstance(values, tuple | list):
            raise DataError(f"{place}: the {kind} are {_shown(values)}, not a list. Give a list of strings.")
    if len(tokens) != len(tags):
        raise DataError(f"{place}: {len(tokens)} words, but {len(tags)} tags. Give one tag for each word.")


def _word(token: Any, index: int, place: Callable[[int], str], *, blank: bool) -> str:
    """Return a word in NFC without white space around it; `blank`: whether it may consist of white space alone."""
    if not isinstance(token, str):
        raise DataError(f"{place(index)}: {_shown(token)} is no text. Give each word as a string.")
    if not blank and not token.strip():
        raise DataError(f"{place(index)}: {token!r} is an empty word. Leave it and its tag out.")
    token = token.strip() or token
    return token if token.isascii() else nfc(token, place(index))


def _tag(tag: Any, index: int, place: Callable[[int], str], names: list[str]) -> str:
    if isinstance(tag, str):
        return tag.strip()
    if isinstance(tag, bool) or not isinstance(tag, int) or not 0 <= tag < len(names):
        raise DataError(
            f"{place(index)}: tag {_shown(tag)} is no text. Allowed: strings, or numbers of a ClassLabel, which here "
            f"has {len(names)} names."
        )
    return names[tag]


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
