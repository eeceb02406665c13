"""Lines of text that arrive as bytes, such as standard input: their encoding is told by a byte order mark, or UTF-8."""

import codecs
import io
from collections.abc import Iterator
from typing import IO

from madx.errors import DataError

#: byte order mark -> the codec that takes it away; that of UTF-32 begins with that of UTF-16
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


#: bytes that are read at once at most, and characters of a line at most
PIECE, LONGEST = 1 << 20, 1 << 24


def text_lines(stream: IO[bytes], *, name: str) -> Iterator[str]:
    """Yield the lines of a stream as they arrive, without their ends (LF, CR LF or CR alone).

    A stream that begins with a byte order mark is read as UTF-8, UTF-16 or UTF-32, any other as UTF-8. Other encodings
    cannot be told from each other, so a byte that is not UTF-8 raises DataError with the line and the way out, as does
    a zero byte, which UTF-16 without a mark is full of, and an endless line. name: the name of the stream in messages.
    """
    raw = stream.readline(PIECE)
    codec = next((codec for mark, codec in MARKS.items() if raw.startswith(mark)), "utf-8")
    # the newline decoder keeps back a CR at the end of a piece until it is known whether LF follows
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(codec)(), translate=True)
    number, rest, more = 1, "", True
    while more:
        more = bool(raw)
        try:
            *lines, rest = (rest + decoder.decode(raw, final=not more)).split("\n")
        except UnicodeDecodeError as error:
            raise _undecodable(error, name, number, codec) from None
        if not more and rest:
            lines.append(rest)
        for line in lines:
            yield _whole(line, f"{name}, line {number}")
            number += 1
        if len(_whole(rest, f"{name}, line {number}")) > LONGEST:
            raise DataError(
                f"{name}, line {number}: longer than {LONGEST >> 20} million characters. Put one sentence on a line."
            )
        raw = stream.readline(PIECE) if more else b""


def _undecodable(error: UnicodeDecodeError, name: str, number: int, codec: str) -> DataError:
    """Return the error for bytes that do not fit the encoding; number: that of the line that was being read."""
    if codec in ("utf-16", "utf-32"):
        return DataError(
            f"{name}, line {number}: the text begins with the byte order mark of {codec.upper()}, but here it is not "
            f"{codec.upper()} ({error.reason}). Is it cut off, or joined from files of several encodings? Write it in "
            "UTF-8."
        )
    before = error.object[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return DataError(
        f"{name}, line {number + before.count(10)}: the byte 0x{error.object[error.start]:02x} is not UTF-8. Convert "
        "the text and read it again, for example from Latin-1: iconv -f LATIN1 -t UTF-8 FILE | madx predict ..."
    )


def _whole(line: str, where: str) -> str:
    """Return a line. Raises DataError for a zero byte in it."""
    if "\0" in line:
        raise DataError(
            f"{where}: holds a zero byte, as text in UTF-16 without a byte order mark does, or a file that is no text. "
            "Convert it and read it again, for example: iconv -f UTF-16LE -t UTF-8 FILE | madx predict ..."
        )
    return line
