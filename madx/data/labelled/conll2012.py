"""The columns of CoNLL-2012 and OntoNotes, and their names as tags in IOB2.

    #begin document (bc/cctv/00/cctv_0000); part 000
    bc/cctv/00/cctv_0000  0  0  Ada       NNP  (TOP(S(NP*  -  -  -  speaker  (PERSON*  *  (0
    bc/cctv/00/cctv_0000  0  1  Lovelace  NNP  *)          -  -  -  speaker  *)        *  0)
    bc/cctv/00/cctv_0000  0  2  spoke     VBD  *           -  -  -  speaker  *         *  -

Columns: document, part, number, word, part of speech, parse, lemma, frame, sense, speaker, names, one for each
predicate of the sentence, coreference (Pradhan et al. 2012, CoNLL-2012 shared task). So the number of columns changes.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from madx.data.labelled.rows import Words, blocks, split
from madx.data.text.files import Line
from madx.errors import DataError

NAMES = 10
_NAME = re.compile(r"\((?P<type>[^\s()*]+)(?:\*\)?|\))|\*\)?")


def document_rows(path: Path, lines: list[Line], *, mark: str) -> list[Words]:
    """Return the words of each sentence. Raises DataError for a line with other columns than its sentence has."""
    rows = []
    for block in blocks(lines):
        words = [(line.number, split(line.text, mark)) for line in block if not line.text.startswith("# ")]
        for number, cells in words:
            if len(cells) != len(words[0][1]):
                raise DataError(
                    f"{path}:{number}: {len(cells)} columns, but {len(words[0][1])} on the first line of its sentence. "
                    "In a file of CoNLL-2012 (#begin document) the lines of a sentence have the same columns; for "
                    "another layout set columns.style=conll."
                )
        if words:
            rows.append(words)
    return rows


def hold_names(cells: Collection[str]) -> bool:
    """Return whether the cells of a column, each at least once, are names in brackets, with at least one name.

    >>> hold_names(["(PERSON*", "*)", "*", "(GPE)"]), hold_names(["(0", "0)", "-"]), hold_names(["_", "_"])
    (True, False, False)
    """
    return all(map(_NAME.fullmatch, cells)) and any(cell != "*" for cell in cells)


def iob2_of_names(cells: Sequence[str]) -> list[str] | int:
    """Return the tags of the names of a sentence, or the index of the first cell that opens or closes none.

    >>> iob2_of_names(["(PERSON*", "*)", "*", "(GPE)"])
    ['B-PERSON', 'I-PERSON', 'O', 'B-GPE']
    """
    tags: list[str] = []
    inside = ""  # the type of the name that is open
    for index, cell in enumerate(cells):
        found = _NAME.fullmatch(cell)
        if not found or (found["type"] and inside) or (cell == "*)" and not inside):
            return index
        begins, inside = bool(found["type"]), found["type"] or inside
        tags.append(f"{'B' if begins else 'I'}-{inside}" if inside else "O")
        inside = "" if cell.endswith(")") else inside
    return len(cells) - 1 if inside else tags
