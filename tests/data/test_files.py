"""Files of text: every line end, encoding and packing is read rightly or refused with file and line."""

import bz2
import gzip
import lzma
import os
import random
import re
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madx.data.labelled.conll import read_conll
from madx.data.labelled.json_lines import read_json_lines
from madx.data.text import files
from madx.data.text.corpora import read_corpus
from madx.data.text.files import lines_of, sha256_of
from madx.errors import DataError

SENTENCES = [(("Ada", "met"), ("B-PER", "O")), (("Bob",), ("B-PER",))]
COLUMNS = "Ada\tB-PER\nmet\tO\n\nBob\tB-PER\n"
ODD = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\xa0"  # str.splitlines cuts at all of these but the last


def written(tmp_path, content, name="x.conll"):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def plain(sentences):
    return [(s.tokens, s.tags) for s in sentences]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\r\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_each_line_end(tmp_path, end, last):
    text = COLUMNS.replace("\n", end) if last else COLUMNS.removesuffix("\n").replace("\n", end)
    assert plain(read_conll(written(tmp_path, text))) == SENTENCES
    assert plain(read_conll(written(tmp_path, text.replace("\t", " ")))) == SENTENCES


def test_line_ends_may_differ_between_lines(tmp_path):
    assert plain(read_conll(written(tmp_path, "Ada\tB-PER\rmet\tO\r\n\nBob\tB-PER\n"))) == SENTENCES


def test_line_ends_of_two_meanings_are_refused(tmp_path):
    file = written(tmp_path, "Ada\tB-PER\rmet\tO\r\r\nBob\tB-PER\r\r\n")
    with pytest.raises(DataError, match=r"line 1 ends with CR alone and line 2 with CR CR LF.*dos2unix"):
        read_conll(file)


def test_doubled_line_ends_are_remarked(tmp_path, caplog):
    read_conll(written(tmp_path, "".join(f"w{i}\tO\n\n" for i in range(21))))
    assert "each of the 21 sentences has one word" in caplog.text and "remove them" in caplog.text
    read_conll(written(tmp_path, "".join(f"w{i}\tO\n" for i in range(1001))))
    assert "all 1,001 words are one" in caplog.text


@given(st.lists(st.sampled_from(["a", "\r", "\n", "\r\n", "\r\r\n"]), max_size=12), st.integers(1, 4))
def test_lines_do_not_depend_on_the_pieces_that_are_read(parts, size):
    whole = "".join(parts).encode()
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    found = list(files._raw_lines(iter(pieces), None))
    expected = re.split(rb"\r\r\n|\r\n|\n|\r", whole)
    assert [text for text, _ in found] == (expected if expected[-1] else expected[:-1])
    assert b"".join(text + end for text, end in found) == whole


@pytest.mark.parametrize("sign", ODD)
@pytest.mark.parametrize("mark", ["\t", " "])
def test_no_other_sign_cuts_a_word_or_a_line(tmp_path, sign, mark):
    (sentence,) = read_conll(written(tmp_path, f"10{sign}000{mark}O\nParis{mark}B-LOC\n"))
    assert sentence.tokens == (f"10{sign}000", "Paris")
    (sentence,) = read_conll(written(tmp_path, f"1\ta{sign}b\t_\tX\t_\t_\t0\t_\t_\t_\n", "x.conllu"), scheme="none")
    assert sentence.tokens == (f"a{sign}b",)
    assert list(read_corpus(written(tmp_path, f"one{sign}two\nthree\n", "x.txt"))) == [f"one{sign}two", "three"]


def test_unescaped_separators_inside_json_lines(tmp_path):
    text = '{"tokens": ["a\u2028b", " c\xa0"], "tags": ["B-X ", "O"]}\r{"tokens": ["d"], "tags": ["O"]}\r'
    assert plain(read_json_lines(written(tmp_path, text))) == [(("a\u2028b", "c"), ("B-X", "O")), (("d",), ("O",))]
    assert list(read_corpus(written(tmp_path, '{"text": "a\u2028b"}\r{"text": "c"}\r', "x.jsonl"))) == ["a\u2028b", "c"]


def test_blanks_around_words_and_tags_and_lines(tmp_path):
    tabs = " Ada \tB-PER \n \t \nNew York\u3000\tB-LOC\n"
    assert plain(read_conll(written(tmp_path, tabs))) == [(("Ada",), ("B-PER",)), (("New York",), ("B-LOC",))]
    blanks = "  Ada   B-PER  \n  \nMet \t O \n".replace("\t", "")
    assert plain(read_conll(written(tmp_path, blanks))) == [(("Ada",), ("B-PER",)), (("Met",), ("O",))]
    (sentence,) = read_conll(written(tmp_path, "Ada\tB-PER\t\nmet\tO\t\n"))
    assert (sentence.tokens, sentence.tags) == SENTENCES[0]  # a tab at the end of each line is no column


@pytest.mark.parametrize("sign", ["\u3000", ",", ";", "|"])
def test_a_separator_that_is_none_is_named(tmp_path, sign):
    with pytest.raises(DataError) as error:
        read_conll(written(tmp_path, f"Ada{sign}B-PER\n"))
    assert "x.conll:1: one column only" in str(error.value) and f"U+{ord(sign):04X}" in str(error.value)
    assert "write tabs instead" in str(error.value)


@pytest.mark.parametrize("sign", ODD[:-1])
@pytest.mark.parametrize("mark", ["\t", " "])
def test_other_signs_at_the_end_of_each_line(tmp_path, sign, mark):
    with pytest.raises(DataError, match=rf"x\.conll:1: the lines seem to end with U\+{ord(sign):04X}.*with LF"):
        read_conll(written(tmp_path, COLUMNS.replace("\t", mark).replace("\n", sign)), scheme="none")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_byte_order_marks(tmp_path, encoding):
    text = COLUMNS if encoding in ("utf-8-sig", "utf-16", "utf-32") else "\ufeff" + COLUMNS
    file = written(tmp_path, text.replace("Ada", "Ọ̀yọ́ 🌍").encode(encoding))
    assert read_conll(file)[0].tokens == ("Ọ̀yọ́ 🌍", "met")
    assert next(read_corpus(written(tmp_path, file.read_bytes(), "x.txt"))) == "Ọ̀yọ́ 🌍\tB-PER"


def test_byte_order_marks_of_joined_files(tmp_path):
    assert plain(read_conll(written(tmp_path, "Ada\tB-PER\nmet\tO\n\ufeff\n\ufeffBob\tB-PER\n"))) == SENTENCES


@pytest.mark.parametrize("text, old", [("Bücher\tO\n", "ISO-8859-1"), ("“so”\tO\n", "WINDOWS-1252")])
def test_other_encodings_are_refused_with_a_command(tmp_path, text, old):
    file = written(tmp_path, ("Ada\tO\n" + text).encode("cp1252"), "a b.conll")
    with pytest.raises(DataError) as error:
        read_conll(file)
    assert "a b.conll:2: not UTF-8" in str(error.value) and f"iconv -f {old} -t UTF-8 '{file}' >" in str(error.value)


@pytest.mark.parametrize("ending, pack", [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_packed_files(tmp_path, ending, pack):
    assert plain(read_conll(written(tmp_path, pack(COLUMNS.encode()), f"x.conll{ending}"))) == SENTENCES
    assert plain(read_conll(written(tmp_path, pack(COLUMNS.encode()), "unnamed.conll"))) == SENTENCES
    conllu = "1\tAda\t_\tPROPN\t_\t_\t0\t_\t_\t_\n"
    (sentence,) = read_conll(written(tmp_path, pack(conllu.encode()), f"X.CoNLLU{ending.upper()}"), scheme="none")
    assert sentence.tags == ("PROPN",)
    assert list(read_corpus(written(tmp_path, pack(b"one\r\ntwo"), f"x.TXT{ending}"))) == ["one", "two"]
    noise = random.Random(1).randbytes(100_000).hex().encode()
    for damaged in (pack(b"a\n" + noise)[:-40_000], b"no archive at all"):
        with pytest.raises(DataError, match=r"damaged or cut off"):
            list(lines_of(written(tmp_path, damaged, f"x.txt{ending}")))


def test_only_regular_files_are_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    (tmp_path / "folder.conll").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # the name of a socket has a hundred characters at most
        server.bind("socket.txt")
        wrong = {"pipe.txt": "a pipe", "loop.txt": "Too many levels", "zero.txt": "a device", "socket.txt": "a socket"}
        for name, words in {**wrong, "folder.conll": "it is a folder", "x" * 300: "File name too long"}.items():
            for read in (read_conll, read_json_lines, sha256_of, lambda path: list(lines_of(path))):
                with pytest.raises(DataError, match=f"cannot be read.*{words}"):
                    read(tmp_path / name)
            if name.endswith(".txt"):
                with pytest.raises(DataError, match=f"cannot be read.*{words}"):
                    read_corpus(tmp_path / name)


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LONGEST_LINE", 1 << 20)
    with pytest.raises(DataError, match=r"x\.txt\.gz:2: a line of more than 1 MiB"):
        list(lines_of(written(tmp_path, gzip.compress(b"a\n" + b"b" * (3 << 20)), "x.txt.gz")))
