"""Texts of a corpus from Python objects: lists, iterators, data sets of the `datasets` library."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from madx.data.text.corpora import dataset_rows, is_loaded_dataset, never_empty, nfc, text_of_record
from madx.errors import DataError


def texts_of(data: Iterable[Any], *, text_key: str | None = None, name: str = "the texts") -> Iterator[str]:
    """Yield the texts of Python objects as `read_corpus` does those of files: NFC, stripped, blank ones left out.

    data: a list, an iterator or a generator of texts, or of records (mappings, such as the rows of a data set).
    text_key: the key of the text in a record; by default `text`, or else the only key of a string.
    name: the name of the data in messages.

    The texts are read once, one at a time, so an iterator is used up; whoever needs them twice stores them first. An
    object that is no collection of texts raises DataError at once; an item that is no text, and data without any text,
    raise it while the texts are read, with the index of the item, counted from 0.

    >>> list(texts_of(["Habari ya asubuhi. ", "", "Karibu!"]))
    ['Habari ya asubuhi.', 'Karibu!']
    """
    return never_empty(_texts(items_of(data, name, "texts"), text_key, name), name)


def items_of(data: Any, name: str, items: str) -> Iterable[Any]:
    """Return the items of a collection; those of a data set of the `datasets` library are plain Python objects.

    Raises DataError for an object that is no collection of `items` ("texts", "sentences"), and, while the items are
    read, for a row of a streamed data set that cannot be fetched.
    """
    kind = f"{name}: an object of type {type(data).__name__}"
    if isinstance(data, str | bytes):
        raise DataError(f"{kind} where a list of {items} is expected. Put it into a list.")
    if isinstance(data, Mapping):
        keys = ", ".join(map(repr, data))
        raise DataError(f"{kind} with the keys {keys} is no list of {items}. Give one of its values.")
    if isinstance(data, set | frozenset):
        raise DataError(f"{kind} has no order, so that no run could be repeated. Give a list of {items}.")
    if not isinstance(data, Iterable):
        raise DataError(f"{kind} is no list of {items}. Give a list, an iterator or a data set.")
    return dataset_rows(data.with_format(None), name) if is_loaded_dataset(data) else data


def _texts(data: Iterable[Any], key: str | None, name: str) -> Iterator[str]:
    for index, item in enumerate(data):
        where = f"{name}, item at index {index}"
        if isinstance(item, str):
            text = nfc(item.strip(), where)
        elif isinstance(item, Mapping):
            key = key or _key_of_text(item, where)
            text = text_of_record(item, key, where)
        else:
            raise DataError(
                f"{where}: an object of type {type(item).__name__} is no text. Give strings, or records with text_key."
            )
        if text:
            yield text


def _key_of_text(record: Mapping[str, Any], where: str) -> str:
    """Return the key of the text: `text`, or the only one of a string."""
    strings = [key for key, value in record.items() if isinstance(value, str)]
    if "text" in record:
        return "text"
    if len(strings) != 1:
        raise DataError(
            f"{where}: no key 'text', and {len(strings)} keys of a string ({', '.join(strings) or 'none'}). "
            "Set text_key to the key of the text."
        )
    return strings[0]
