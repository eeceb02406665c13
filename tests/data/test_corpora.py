"""Raw text: every kind of file is read, and every kind of damage is named with file and line."""

import bz2
import gzip
import hashlib
import json
import unicodedata

import pytest

from madx.data.text.corpora import corpus_files, find_files, parse_dataset_name, read_corpus
from madx.errors import ConfigError, DataError

LINES = ["first line", "zweite Zeile", "mstari wa tatu"]


@pytest.fixture
def texts(tmp_path):
    """A folder with one file of each kind, all with the same lines."""
    plain = "\n".join(LINES).encode()
    records = "\n".join(json.dumps({"id": i, "text": line}) for i, line in enumerate(LINES)).encode()
    for name, content in {"b.txt": plain, "a.jsonl": records}.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    return tmp_path


@pytest.mark.parametrize("name", ["b.txt", "b.txt.gz", "a.jsonl", "a.jsonl.gz"])
def test_reads_each_kind(texts, name):
    assert list(read_corpus(texts / name)) == LINES
    assert list(read_corpus(str(texts / name), limit=2)) == LINES[:2]


def test_folder_is_sorted_and_lists_keep_their_order(texts):
    (texts / "notes.md").write_text("not a corpus")
    (texts / ".hidden.txt").write_text("not to be read")
    (texts / "sub").mkdir()
    (texts / "sub" / "z.txt").write_text("deep")
    assert list(read_corpus(texts)) == LINES * 4 + ["deep"]
    assert list(read_corpus([texts / "sub" / "z.txt", texts / "b.txt"])) == ["deep", *LINES]


def test_what_a_folder_passes_over_is_said(texts, caplog):
    for name in ("c.TXT", "d.text", "e.ndjson"):
        (texts / name).write_text('{"text": "more"}\n')
    (texts / "f.txt.bz2").write_bytes(bz2.compress(b"packed\n"))
    (texts / ".hidden.pdf").write_text("x")
    assert sorted(path.suffix for path in find_files(texts)) == [
        *(".TXT", ".bz2", ".gz", ".gz", ".jsonl", ".ndjson", ".text", ".txt")
    ]
    assert not caplog.text
    for name in ("g.json", "h.json", "i.pdf", "README"):
        (texts / name).write_text("x")
    (texts / "sub").mkdir()
    (texts / "sub" / "loop").symlink_to(texts)
    (texts / "sub" / "gone.txt").symlink_to(texts / "nowhere.txt")
    assert len(find_files(texts)) == 8
    for words in (
        "5 of 13 files",
        "2 .json ('g.json')",
        "1 .pdf ('i.pdf')",
        "1 no ending ('README')",
        "no regular file",
    ):
        assert words in caplog.text
    (texts / "only").mkdir()
    (texts / "only" / "gone.txt").symlink_to(texts / "nowhere.txt")
    with pytest.raises(DataError, match=r"holds no corpus file.*\.ndjson.*It holds 1 no regular file \('gone\.txt'\)"):
        find_files(texts / "only")


def test_a_linked_folder_is_read_once(texts, tmp_path):
    (tmp_path / "linked").symlink_to(tmp_path / "there")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x.txt").write_text("deep\n")
    assert len(find_files(tmp_path)) == 5


def test_text_is_nfc_stripped_and_lines_end_at_newlines_only(tmp_path):
    file = tmp_path / "x.txt"
    file.write_bytes("\ufeffẹ\u0301 one\r\n\n  two\u2028still two \n\u00a0\n".encode())
    assert list(read_corpus(file)) == [unicodedata.normalize("NFC", "ẹ\u0301 one"), "two\u2028still two"]


def test_text_of_old_macs(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"one\r\rtwo\rthree")
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "one"}\r{"text": "two"}\r')
    assert list(read_corpus(tmp_path / "x.txt")) == ["one", "two", "three"]
    assert list(read_corpus(tmp_path / "x.jsonl")) == ["one", "two"]


def test_streams(tmp_path):
    """The first lines come even if the last one is broken."""
    file = tmp_path / "x.txt"
    file.write_bytes(b"fine\n" * 1000 + b"\xff\n")
    texts = read_corpus(file)
    assert [next(texts) for _ in range(1000)] == ["fine"] * 1000
    with pytest.raises(DataError, match=r"x\.txt:1001: not UTF-8 text: byte 0xff at offset 5000"):
        next(texts)


def broken(tmp_path, name, content) -> str:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_corpus(tmp_path / name))
    assert str(tmp_path / name) in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name, content, expected",
    [
        ("x.txt", b"", "empty"),
        ("x.txt", b"\n \n", "empty"),
        ("x.txt", b"good\nbad \xe9t\xe9\n", "x.txt:2: not UTF-8 text: byte 0xe9 at offset 9"),
        ("x.txt", b"good\nBM\0\0rest\n", "x.txt:2: a zero byte at offset 7"),
        ("x.txt", "UTF-16".encode("utf-16-le"), "x.txt:1: a zero byte at offset 1, and not UTF-8 text"),
        ("x.txt", "abc".encode("utf-16-be"), "Type iconv -f UTF-16BE -t UTF-8 "),
        ("x.txt", b"\xff\xfeA\0\0", "not UTF-16 text, although its byte order mark says so"),
        ("x.txt", b"na\xefve \x93quoted\x94", "iconv -f WINDOWS-1252 -t UTF-8"),
        ("x.txt", b"PK\x03\x04 and more", "this is a ZIP archive"),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', "x.jsonl:2: not a JSON line"),
        ("x.jsonl", b'{"text": "a"}\n{"text": ' + b"[" * 100_000, "x.jsonl:2: not a JSON line"),
        ("x.jsonl", b'{"text": "a"}\n["b"]\n', "x.jsonl:2: a JSON list"),
        ("x.jsonl", b'{"body": "a", "id": 1}\n', "x.jsonl:1: no key 'text'; the keys are 'body', 'id'"),
        ("x.jsonl", b'{"text": 5}\n', "x.jsonl:1: 'text' holds int"),
        ("x.jsonl", b'{"text": "\\ud800"}\n', "x.jsonl:1: half of a surrogate pair"),
        ("x.txt.gz", b"plain text", "x.txt.gz:1: the compressed file is damaged"),
        ("x.pdf", b"%PDF", "Allowed: .txt, .text, .jsonl, .ndjson"),
    ],
)
def test_faults_name_file_and_line(tmp_path, name, content, expected):
    assert expected in broken(tmp_path, name, content)


def test_truncated_gz(tmp_path):
    content = b"".join(hashlib.sha256(b"%d" % i).hexdigest().encode() + b"\n" for i in range(5000))
    assert "damaged or cut off after" in broken(tmp_path, "x.txt.gz", gzip.compress(content)[:-3000])


def test_missing_file_names_the_nearest(texts):
    with pytest.raises(DataError, match=r"c\.txt: no such file or folder; did you mean '.*b\.txt'\?"):
        read_corpus(texts / "c.txt")  # at once, not when the first line is asked for
    with pytest.raises(DataError, match="no such file or folder"):
        read_corpus(texts / "no" / "such" / "folder.txt")
    (texts / "corpora").mkdir()
    with pytest.raises(DataError, match="holds no corpus file"):
        read_corpus(texts / "corpora")
    with pytest.raises(DataError, match="did you mean '.*corpora'"):
        read_corpus(texts / "corpra" / "x.txt")


def test_settings_are_checked(texts):
    with pytest.raises(ConfigError, match="limit is 0"):
        read_corpus(texts, limit=0)
    with pytest.raises(DataError, match="empty list"):
        read_corpus([])
    with pytest.raises(DataError, match="cannot stand in a list"):
        read_corpus([texts / "b.txt", "datasets:wikiann"])


def test_other_text_key(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"body": "words"}\n{"body": " "}\n')
    assert list(read_corpus(tmp_path / "x.jsonl", text_key="body")) == ["words"]


def test_corpus_files(texts):
    (file,) = corpus_files(texts / "b.txt")
    content = (texts / "b.txt").read_bytes()
    assert file == (str(texts / "b.txt"), hashlib.sha256(content).hexdigest(), len(content))
    assert len(corpus_files(texts)) == 4
    assert corpus_files("datasets:wikiann:sw") == [("datasets:wikiann:sw", None, None)]


@pytest.mark.parametrize(
    "source, expected",
    [
        ("datasets:a/b", ("a/b", None, "train")),
        ("datasets:a:sw", ("a", "sw", "train")),
        ("datasets:a:test", ("a", None, "test")),
        ("datasets:a:sw:validation", ("a", "sw", "validation")),
        ("datasets:a::odd", ("a", None, "odd")),
        ("datasets:a:sw:train[:10%]", ("a", "sw", "train[:10%]")),
    ],
)
def test_dataset_names(source, expected):
    assert parse_dataset_name(source) == expected


def test_dataset_is_streamed(monkeypatch):
    datasets = pytest.importorskip("datasets")
    calls = []

    def rows():
        yield {"text": "e\u0301"}
        yield {"text": " "}
        yield {"content": "x"}

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: calls.append((args, kwargs)) or rows())
    texts = read_corpus("datasets:wiki:sw")
    assert next(texts) == "é"
    assert calls == [(("wiki", "sw"), {"split": "train", "streaming": True})]
    with pytest.raises(DataError, match=r"datasets:wiki:sw, row 3: no key 'text'; the keys are 'content'"):
        next(texts)


def test_lost_connection_is_a_data_error(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def rows():
        yield {"text": "one"}
        raise ConnectionError("reset by peer")

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows())
    with pytest.raises(DataError, match="row 2: reading failed: ConnectionError: reset by peer"):
        list(read_corpus("datasets:wiki"))


def test_local_folder_through_datasets(tmp_path, monkeypatch):
    """For the real library a folder of JSON lines is a data set, too, also offline."""
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in LINES))
    assert list(read_corpus(f"datasets:{tmp_path / 'set'}")) == LINES
    with pytest.raises(DataError, match="cannot be loaded"):
        read_corpus(f"datasets:{tmp_path / 'nowhere'}").__next__()
