"""Labelled sentences in files of JSON lines: one object `{"tokens": [...], "tags": [...]}` on each line."""

import json
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from madx.data.labelled.items import ItemReader
from madx.data.labelled.lines import labelled_lines
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.tags import Inventory
from madx.errors import DataError


def read_json_lines(
    path: str | PathLike[str], *, scheme: str = "auto", repair: bool = False, inventory: Inventory | None = None
) -> list[Sentence]:
    """Read the sentences of a file of JSON lines; blank lines are left out. See `read_conll` for the settings.

    Raises DataError with file and line for anything that is broken, and for a file without sentences.
    """
    path = Path(path)

    def place(line: int, word: int | None) -> str:
        return f"{path}:{line}" + ("" if word is None else f", word {word + 1}")

    sentences = ItemReader(place).read(_objects(path), scheme=scheme, repair=repair, inventory=inventory)
    if not sentences:
        raise DataError(f'{path}: the file is empty. Give lines such as {{"tokens": ["Nairobi"], "tags": ["B-LOC"]}}.')
    return sentences


def _objects(path: Path) -> Iterator[tuple[int, Any]]:
    for number, text, _ in labelled_lines(path):
        if not text.strip():
            continue
        try:
            item = json.loads(text)
        except (ValueError, RecursionError) as error:  # the second for lists inside each other without end
            raise DataError(
                f"{path}:{number}: not a JSON line: {error}. Each line must be one object; the rows of a JSON array "
                "are written so by jq -c '.[]'."
            ) from None
        if not isinstance(item, dict):
            raise DataError(
                f'{path}:{number}: a JSON {type(item).__name__}, not an object {{"tokens": [...], "tags": [...]}}.'
            )
        yield number, item
