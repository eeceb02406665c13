"""Labelled sentences from Python objects: pairs of words and tags, records, data sets of the `datasets` library."""

from collections.abc import Iterable, Sequence
from typing import Any

from madx.data.labelled.items import ItemReader
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.tags import Inventory
from madx.data.text.corpora import is_loaded_dataset, load_dataset
from madx.data.text.memory import items_of
from madx.errors import DataError

TAG_COLUMNS = ("ner_tags", "tags", "labels", "upos")  # the usual names of a column of tags


def sentences_of(
    data: Iterable[Any],
    *,
    token_column: str = "tokens",
    tag_columns: Sequence[str] = TAG_COLUMNS,
    scheme: str = "none",
    repair: bool = False,
    inventory: Inventory | None = None,
    name: str = "the sentences",
) -> list[Sentence]:
    """Return sentences from Python objects, with their tags as they are or checked as those of files are.

    data: a list or any iterable of pairs (words, tags), of `Sentence`, or of records (mappings) with a column of word
        lists and one of tag lists, such as the rows of a `datasets.Dataset`.
    token_column: the column of the words; tag_columns: the column of the tags is the first of these that a record has.
    scheme: `none` to leave the tags as they are; `auto`, `iob1`, `iob2` or `bioes` to check spans and return IOB2.
    repair, inventory: as for `read_conll`.
    name: the name of the data in messages.

    Tags are text, or numbers whose names the ClassLabel of a data set holds. Rows of a data set without words are left
    out. Raises DataError for any other item that is no sentence, with its index and what is wrong, and for empty data.

    >>> sentences_of([(["Ada", "Lovelace"], ["I-PER", "I-PER"])], scheme="auto")[0].tags
    ('B-PER', 'I-PER')
    """

    def place(number: int, word: int | None) -> str:
        return f"{name}, item at index {number}" + ("" if word is None else f", word at index {word}")

    loaded = is_loaded_dataset(data)
    names = _class_names(data) if loaded else {}
    reader = ItemReader(place, token_column, tuple(tag_columns), names, lenient=loaded)
    items = enumerate(items_of(data, name, "sentences"))
    return _not_empty(reader.read(items, scheme=scheme, repair=repair, inventory=inventory), name)


def read_dataset(
    name: str,
    *,
    token_column: str = "tokens",
    tag_column: str = "ner_tags",
    scheme: str = "auto",
    repair: bool = False,
    inventory: Inventory | None = None,
) -> list[Sentence]:
    """Return the sentences of `datasets:NAME[:CONFIG][:SPLIT]`: a column of word lists and one of tag lists.

    Tags are text, or numbers whose names the ClassLabel of the column holds. Rows without words are left out.
    scheme, repair, inventory: as for `read_conll`. Raises DataError, with the row, for anything that is wrong.
    """

    def place(number: int, word: int | None) -> str:
        return f"{name}, row {number}" + ("" if word is None else f", word {word + 1}")

    data = load_dataset(name, streaming=False)
    reader = ItemReader(place, token_column, (tag_column,), _class_names(data), lenient=True)
    rows = enumerate(items_of(data, name, "sentences"), start=1)
    return _not_empty(reader.read(rows, scheme=scheme, repair=repair, inventory=inventory), name)


def _class_names(data: Any) -> dict[str, list[str]]:
    """Return the names of the tags of each column of a data set whose lists hold a ClassLabel."""
    labels = {column: getattr(feature, "feature", None) for column, feature in (data.features or {}).items()}
    return {column: names for column, label in labels.items() if (names := getattr(label, "names", None))}


def _not_empty(sentences: list[Sentence], name: str) -> list[Sentence]:
    if not sentences:
        raise DataError(f"{name}: the data is empty: nothing in it holds a word. Give at least one sentence.")
    return sentences
