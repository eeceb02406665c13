"""Labelled sentences in JSON lines: read with the checks of every reader, faults named with file and line."""

import pytest

from madx.data.labelled.json_lines import read_json_lines
from madx.data.labelled.sentences import Sentence
from madx.errors import DataError

FINE = '{"tokens": ["Ada", "e\\u0301"], "tags": ["I-PER", "I-PER"], "id": 1}\n\n{"tags": ["O"], "tokens": ["10 000"]}\n'


def test_reads_sentences(tmp_path):
    (tmp_path / "x.jsonl").write_text(FINE)
    first, second = read_json_lines(tmp_path / "x.jsonl")
    assert first == Sentence(("Ada", "é"), ("B-PER", "I-PER"), 1)
    assert second == Sentence(("10 000",), ("O",), 3)
    assert read_json_lines(tmp_path / "x.jsonl", scheme="none")[0].tags == ("I-PER", "I-PER")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("\n", "x.jsonl: the file is empty"),
        (FINE + "Ada B-PER", "x.jsonl:4: not a JSON line"),
        (FINE + '{"tokens": ' + '{"a":' * 100_000, "x.jsonl:4: not a JSON line"),
        (FINE + "[1]", "x.jsonl:4: a JSON list, not an object"),
        (FINE + '{"tokens": ["a"]}', "x.jsonl:4: no column 'tags'"),
        (FINE + '{"tokens": ["a"], "tags": []}', "x.jsonl:4: 1 words, but 0 tags"),
        (FINE + '{"tokens": ["a"], "tags": [0]}', "x.jsonl:4, word 1: tag 0 (int) is no text"),
        (FINE + '{"tokens": ["\\ud800"], "tags": ["O"]}', "x.jsonl:4, word 1: half of a surrogate pair"),
        (FINE + '{"tokens": ["a", "b"], "tags": ["O", "PER"]}', "x.jsonl:4, word 2 'b': tag 'PER' is neither O nor"),
    ],
)
def test_faults_name_file_and_line(tmp_path, text, expected):
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(DataError) as error:
        read_json_lines(tmp_path / "x.jsonl")
    assert expected in str(error.value)
