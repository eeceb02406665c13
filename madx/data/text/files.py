"""Files of text: opened, unpacked, decoded and cut into numbered lines, in one way for corpora and labelled files.

A line ends with LF, CR LF, CR alone (old Macs, some exports), or CR CR LF (CR LF written twice over). Nothing else ends
one: U+2028, U+2029, U+0085, form feeds and the like may stand inside a line. Files are UTF-8; a byte order mark is left
out, and that of UTF-16 or UTF-32 says how to decode them. `.gz`, `.bz2` and `.xz` files are unpacked while being read.
"""

import codecs
import gzip
import hashlib
import os
import shlex
import stat
import zlib
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, NamedTuple

from madx.errors import DataError

PACKED = (".gz", ".bz2", ".xz")
#: bytes of a line at most: a longer one is no text, or would fill the memory
LONGEST_LINE = 1 << 26
_CHUNK = 1 << 20
#: the first bytes of packed files, whatever their names are
_PACKED_BY_CONTENT = {b"\x1f\x8b\x08": ".gz", b"BZh91AY&SY": ".bz2", b"\xfd7zXZ\0": ".xz"}
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive or an office document: unpack or export it as text",
    b"(\xb5/\xfd": "packed by Zstandard: unpack it with zstd -d",
    b"PAR1": "a Parquet file: write its rows as JSON lines",
    b"%PDF-": "a PDF: extract its text, for example with pdftotext",
}
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class Line(NamedTuple):
    """A line of a file, numbered from 1, without its end; `end` is what ended it, empty for the last one."""

    number: int
    text: str
    end: bytes = b"\n"


def plain_name(path: str | os.PathLike[str]) -> str:
    """Return the name of a file in small letters, without the ending of a packed one.

    >>> plain_name("data/Train.CoNLLU.gz")
    'train.conllu'
    """
    name = Path(path).name.lower()
    return next((name.removesuffix(ending) for ending in PACKED if name.endswith(ending)), name)


def check_exists(path: Path) -> None:
    """Raise DataError for a missing file or folder; the message suggests the nearest name in the same place."""
    try:
        path.stat()
        return
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a link to itself, a folder that is closed to us, too long a name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{str(path)!r}: cannot be read: {reason}. Name a file or folder that can be.") from None
    there = path.parent
    while not there.is_dir():  # a relative path ends at ".", an absolute one at "/"
        there = there.parent
    wanted = path.relative_to(there).parts[0] if there != path.parent else path.name
    near = get_close_matches(wanted, sorted(p.name for p in there.iterdir()), n=1)
    hint = (
        f"did you mean {str(there / near[0])!r}?" if near else f"nothing in {str(there)!r} has a name like {wanted!r}."
    )
    raise DataError(f"{path}: no such file or folder; {hint}")


def check_file(path: Path) -> None:
    """Raise DataError unless a path, links followed, leads to a regular file; nothing is opened for that."""
    check_exists(path)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DataError(f"{path}: cannot be read: it is a folder, not a file. Name the file in it.")
    if not stat.S_ISREG(mode):
        kind = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise DataError(
            f"{path}: cannot be read: it is {kind}, not a regular file. Data is read more than once, so write it to a "
            "file and name that."
        )


def lines_of(path: Path) -> Iterator[Line]:
    """Yield the lines of a file. Raises DataError, with file and line, for what cannot be read as text."""
    check_file(path)
    number, offset = 0, 0
    try:
        with _opened(path) as file:
            for number, (raw, end) in enumerate(_raw_lines(_utf8_chunks(file, path), path), start=1):
                yield Line(number, _decoded(raw, path=path, line=number, offset=offset), end)
                offset += len(raw) + len(end)
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{path}: cannot be read: {error.strerror}. Name a file that can be.") from error
        raise _damaged(path, number, offset, error) from error  # the libraries give such errors no number
    except (EOFError, zlib.error) as error:
        raise _damaged(path, number, offset, error) from error


def sha256_of(path: Path) -> str:
    """Return the sha256 of the bytes of a file, which is read piece by piece."""
    check_file(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _damaged(path: Path, number: int, offset: int, error: Exception) -> DataError:
    return DataError(
        f"{path}:{number + 1}: the compressed file is damaged or cut off after {offset} bytes of text ({error}). "
        "Copy or compress it again."
    )


def _opened(path: Path) -> IO[bytes] | Any:
    """Open a file, unpacked by its name or by its first bytes."""
    with path.open("rb") as file:
        head = file.read(10)
    ending = path.suffix.lower()
    if ending not in PACKED:
        ending = next((e for start, e in _PACKED_BY_CONTENT.items() if head.startswith(start)), "")
    if foreign := next((words for start, words in _FOREIGN.items() if head.startswith(start)), None):
        raise DataError(f"{path}: this is {foreign}.")
    if ending == ".gz":
        return gzip.open(path)
    if ending == ".bz2":
        import bz2  # here, as Python can be built without it

        return bz2.open(path)
    if ending == ".xz":
        import lzma

        return _Xz(lzma.open(path), lzma.LZMAError)
    return path.open("rb")


class _Xz:
    """A file whose library has an error class of its own, which becomes an EOFError here."""

    def __init__(self, file: IO[bytes], error: type[Exception]):
        self.file, self.error = file, error

    def __enter__(self) -> "_Xz":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def read(self, size: int) -> bytes:
        try:
            return self.file.read(size)
        except self.error as error:
            raise EOFError(str(error)) from error


def _utf8_chunks(file: Any, path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file in pieces, as UTF-8 and without a byte order mark."""
    first = file.read(_CHUNK)
    mark, encoding = next(((m, name) for m, name in _MARKS if first.startswith(m)), (b"", "utf-8"))
    chunk = first[len(mark) :]
    if encoding == "utf-8":
        while chunk:
            yield chunk
            chunk = file.read(_CHUNK)
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while chunk:
            yield decoder.decode(chunk).encode()
            chunk = file.read(_CHUNK)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not {encoding[:6].upper()} text, although its byte order mark says so: {error.reason}. Save the "
            "file as UTF-8."
        ) from None


def _raw_lines(chunks: Iterator[bytes], path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Yield the bytes of each line and of its end."""
    before, count = b"", 0  # a line that may go on; lines given
    for chunk in _whole_ends(chunks):
        for piece in chunk.splitlines(keepends=True):  # of bytes: it cuts at LF, CR LF and CR alone
            open_end = not before.endswith((b"\n", b"\r"))
            if open_end or (before.endswith(b"\r") and piece == b"\r\n"):
                before += piece
                if len(before) > LONGEST_LINE:
                    raise DataError(
                        f"{path}:{count + 1}: a line of more than {LONGEST_LINE >> 20} MiB. Text has one sentence or "
                        "document a line; cut it into lines, or name a text file."
                    )
            else:
                count += 1
                yield _cut(before)
                before = piece
    if before:
        yield _cut(before)


def _whole_ends(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes so that no CR LF or CR CR LF is cut in two."""
    held = b""
    for chunk in chunks:
        chunk = held + chunk
        end = len(chunk) - (2 if chunk.endswith(b"\r\r") else 1 if chunk.endswith(b"\r") else 0)
        held = chunk[end:]
        yield chunk[:end]
    yield held


def _cut(line: bytes) -> tuple[bytes, bytes]:
    text = line.rstrip(b"\r\n")
    return text, line[len(text) :]


def _decoded(raw: bytes, *, path: Path, line: int, offset: int) -> str:
    """Decode a line, which has `offset` bytes before it."""
    zero = raw.find(0)
    if zero >= 0 and raw.count(0) * 4 > len(raw):
        name = "UTF-16LE" if raw[1::2].count(0) > raw[::2].count(0) else "UTF-16BE"
        raise DataError(
            f"{path}:{line}: a zero byte at offset {offset + zero}, and not UTF-8 text: it looks like {name} without a "
            f"byte order mark. {_convert(path, name)}"
        )
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        old = "WINDOWS-1252" if any(0x80 <= byte < 0xA0 for byte in raw) else "ISO-8859-1"
        raise DataError(
            f"{path}:{line}: not UTF-8 text: byte 0x{raw[error.start]:02x} at offset {offset + error.start}. Name a "
            f"text file, or save it as UTF-8. If its encoding is {old}, as often in western Europe: "
            f"{_convert(path, old)}"
        ) from None
    if zero >= 0:
        raise DataError(f"{path}:{line}: a zero byte at offset {offset + zero}: a binary file. Name a text file.")
    return text.removeprefix("\ufeff")  # files that were joined have the marks of all


def _convert(path: Path, encoding: str) -> str:
    name = shlex.quote(str(path))
    return f"Type iconv -f {encoding} -t UTF-8 {name} > {shlex.quote(str(path) + '.utf8')}"
