"""The numbered lines of a labelled file, all of them, checked for ends that could be read in two ways."""

from pathlib import Path

from madx.data.text.files import Line, lines_of
from madx.errors import DataError

#: characters of a labelled file at most; its sentences are held in memory
MOST = 1 << 29


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
    return lines
