"""The numbered lines of a labelled file, all of them, checked for ends that could be read in two ways."""

import re
from pathlib import Path

from madx.data.text.files import Line, lines_of
from madx.errors import DataError

#: characters of a labelled file at most; its sentences are held in memory
MOST = 1 << 29
#: characters at which an editor may begin a new line, other than CR and LF
OTHER_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")


def labelled_lines(path: Path) -> list[Line]:
    """Return the lines of a file. Raises DataError, with file and line, for what cannot be read.

    A CR CR LF is one end where CR LF was written twice over, but an end and a blank line where CR alone ends lines: a
    file with both is refused.
    """
    lines, size = [], 0
    for line in lines_of(path):
        lines.append(line)
        size += len(line.text)
        if size > MOST:
            raise DataError(
                f"{path}:{line.number}: more than {MOST >> 20} million characters; labelled sentences are held in "
                "memory, so divide the file."
            )
    if twice := next((line for line in lines if line.end == b"\r\r\n"), None):
        if alone := next((line for line in lines if line.end == b"\r"), None):
            raise DataError(
                f"{path}: line {alone.number} ends with CR alone and line {twice.number} with CR CR LF, so blank lines "
                "cannot be told. Write the file with one kind of line ends, for example with dos2unix."
            )
    _check_other_ends(path, lines)
    return lines


def _check_other_ends(path: Path, lines: list[Line]) -> None:
    """Refuse a file of one line that a sign such as U+2028 divides into lines with a word and its tag each."""
    filled = [line for line in lines if line.text.strip()]
    found = OTHER_ENDS.search(filled[0].text) if len(filled) == 1 else None
    if found and filled[0].text.count(found[0]) > 1:
        parts = [part for part in filled[0].text.split(found[0]) if part.strip()]
        if all(len(part.split()) > 1 for part in parts):
            raise DataError(
                f"{path}:{filled[0].number}: the lines seem to end with U+{ord(found[0]):04X}, which may stand inside "
                "a word and ends no line here. Write the file with LF at the end of each line."
            )
