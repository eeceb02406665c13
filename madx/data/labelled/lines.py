"""The numbered lines of a labelled file."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from madx.data.text.corpora import check_exists, decode_line
from madx.errors import DataError


class Line(NamedTuple):
    """A line of a file, numbered from 1, without its end."""

    number: int
    text: str


def lines_of(path: Path) -> Iterator[Line]:
    """Yield the lines of a UTF-8 file. Raises DataError, with file and line, for what cannot be read."""
    check_exists(path)
    offset = 0
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):  # in bytes only \n ends a line; in text U+2028 would, too
                yield Line(number, decode_line(raw, path=path, line=number, offset=offset).rstrip("\r\n"))
                offset += len(raw)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}. Name a file with labelled sentences.") from error
