"""Texts in memory: a list, an iterator, or a data set of the `datasets` library."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from madx.errors import DataError


def texts_of(data: Any) -> Iterable[str]:
    """The texts of a list, an iterator (which is consumed) or a `datasets.Dataset`, whose only column of text, or the
    one called `text`, is read. Raises DataError for anything else.

    >>> list(texts_of(["Habari.", "Jambo."]))
    ['Habari.', 'Jambo.']
    """
    if is_dataset_object(data):
        return _column(data)
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise DataError(f"texts are needed, in a list, an iterator or a data set; given: {type(data).__name__}.")
    return _checked(data)


def is_dataset_object(data: Any) -> bool:
    """Whether the data is a data set of the `datasets` library, which is not imported for this."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(data, (library.Dataset, library.IterableDataset))


def _checked(texts: Iterable[Any]) -> Iterator[str]:
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise DataError(f"text {number} is {type(text).__name__}, not text: {str(text)[:60]!r}.")
        yield text


def _column(data: Any) -> Iterator[str]:
    features = data.features or {}
    columns = [name for name, kind in features.items() if getattr(kind, "dtype", None) in ("string", "large_string")]
    name = "text" if "text" in columns or not features else columns[0] if len(columns) == 1 else None
    if name is None:
        raise DataError(
            f"the data set has the columns of text {', '.join(columns) or '(none)'}, none of which is called 'text'. "
            "Give one column: data.select_columns([NAME])."
        )
    return _checked(row.get(name) for row in data)
