"""Lines of a stream of bytes: encodings with a byte order mark, line ends, and what is refused."""

import codecs
import io

import pytest

from madx.data.text import streams
from madx.data.text.streams import text_lines
from madx.errors import DataError

TEXT = "Juma anaishi Nairobi.\n\nỌ̀yọ́ 👍\u2028x\u0a0a\u0a0d\n田中"
WANTED = ["Juma anaishi Nairobi.", "", "Ọ̀yọ́ 👍\u2028x\u0a0a\u0a0d", "田中"]


def lines(raw: bytes) -> list[str]:
    return list(text_lines(io.BytesIO(raw), name="stdin"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("last", [False, True], ids=["cut", "ended"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_marks_tell_the_encoding(codec, end, last, monkeypatch):
    marks = {
        "utf-16-le": codecs.BOM_UTF16_LE,
        "utf-16-be": codecs.BOM_UTF16_BE,
        "utf-32-le": codecs.BOM_UTF32_LE,
        "utf-32-be": codecs.BOM_UTF32_BE,
    }
    raw = marks.get(codec, b"") + (TEXT + "\n" * last).replace("\n", end).encode(codec)
    assert lines(raw) == WANTED
    monkeypatch.setattr(streams, "PIECE", 5)  # every character and every end is cut somewhere
    assert lines(raw) == WANTED


@pytest.mark.parametrize("raw", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_an_empty_stream_has_no_line(raw):
    assert lines(raw) == []


def test_lines_come_one_by_one():
    class Typed(io.BytesIO):
        asked = 0

        def readline(self, size=-1):
            self.asked += 1
            return super().readline(size)

    stream = Typed(b"a\nb\n")
    found = text_lines(stream, name="stdin")
    assert next(found) == "a" and stream.asked == 1, "a person who types waits for no second line"


@pytest.mark.parametrize(
    ("raw", "wanted"),
    {
        "Latin-1": ("one\ncafé\n".encode("latin-1"), ["line 2", "0xe9", "iconv -f LATIN1"]),
        "Latin-1, CR": ("one\rtwo\rcafé\r".encode("latin-1"), ["line 3", "0xe9"]),
        "Windows": ("“Juma”\n".encode("cp1252"), ["line 1", "0x93"]),
        "cut off in a character": ("a\nọ".encode()[:-1], ["line 2", "0xe1"]),
        "after a mark": (codecs.BOM_UTF8 + b"\xff", ["line 1", "0xff"]),
        "UTF-16 without a mark": ("Juma\nAli\n".encode("utf-16-le"), ["line 1", "zero byte", "iconv -f UTF-16LE"]),
        "a zero byte": (b"a\nb\0c\n", ["line 2", "zero byte"]),
        "odd UTF-16": (codecs.BOM_UTF16_LE + "a\nbc".encode("utf-16-le")[:-1], ["line 2", "UTF-16", "cut off"]),
    }.values(),
    ids=["latin", "latin cr", "windows", "cut", "mark", "utf16", "zero", "odd"],
)
def test_other_bytes_are_refused_with_line_and_way_out(raw, wanted):
    with pytest.raises(DataError) as error:
        lines(raw)
    assert all(text in str(error.value) for text in ("stdin", *wanted)), error.value


def test_an_endless_line_is_refused(monkeypatch):
    monkeypatch.setattr(streams, "LONGEST", 1 << 21)
    with pytest.raises(DataError, match="line 2: longer than 2 million characters"):
        lines(b"a\n" + b"x" * (1 << 22))
    with pytest.raises(DataError, match="zero byte"):
        lines(b"\0" * (1 << 22))
