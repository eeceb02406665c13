"""matrix.json: nothing is lost, files of 0.1.0 are read, and damage is named."""

import json
import random
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from evaluation_tools import META, cells, matrix, printed
from hypothesis import given, settings
from hypothesis import strategies as st

from madx.errors import DataError
from madx.metrics.scores import entity_scores
from madx.report import to_markdown
from madx.results import CONTROLS, Cell, Meta, Missing, TransferMatrix, from_json, read_matrix, to_json

words = st.text(max_size=6)
tag_rows = st.lists(
    st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC"]), min_size=1, max_size=4), min_size=1, max_size=4
)
records = st.none() | st.dictionaries(
    words.filter(lambda w: w != "inactive"),
    st.integers() | words | st.floats(allow_nan=False, allow_infinity=False) | st.lists(words, max_size=2).map(tuple),
    max_size=3,
)


@given(
    tag_rows,
    st.lists(st.tuples(st.sampled_from(list(CONTROLS)), st.integers(0, 10**9)), unique=True, max_size=4),
    records,
    words,
    st.dictionaries(words, words, max_size=2),
)
@settings(derandomize=True, max_examples=60, deadline=None)
def test_json_round_trip(gold, places, record, text, data):
    rng = random.Random(0)
    made = []
    for control, seed in places:
        scores = entity_scores(gold, [[rng.choice(["O", "B-PER"]) for _ in s] for s in gold])
        made.append(Cell("swa", control, text, seed, scores, record))
    meta, missing = Meta("ner", "eng", text, data, {}, text), (Missing("hau", "mean", text),)
    m = TransferMatrix(meta, tuple(made), missing, ("hau", "swa"))
    again = from_json(to_json(m))
    assert again == m and to_json(again) == to_json(m)


def test_the_reading_of_spans_and_the_remarks_are_kept():
    m = replace(matrix(cells("swa")), meta=replace(META, scoring="lenient", remarks=("no DATE in swa",)))
    again = from_json(to_json(m))
    assert (again.meta.scoring, again.meta.remarks) == ("lenient", ("no DATE in swa",)) and again == m
    for text in (to_markdown(m), printed(m)):
        assert "scoring lenient" in text and "no DATE in swa" in text
    with pytest.raises(DataError, match="'loose'.*lenient"):
        replace(META, scoring="loose")
    with pytest.raises(DataError, match="list of texts"):
        replace(META, remarks="one text")


def test_a_matrix_of_0_1_0_is_read_and_gives_the_figures_that_it_recorded():
    path = Path(__file__).parent / "run_of_0_1_0" / "matrix.json"
    m, recorded = read_matrix(path), json.loads(path.read_text(encoding="utf-8"))
    (explained,) = {json.dumps(c.explanation) for c in m.group("swa", "target")}
    assert m.group("swa", "target")[0].inactive == ("swa",)
    assert '"component": "bottleneck"' in explained and "silent" not in explained and '"part"' not in explained
    for name, found in (("table", m.table()), ("differences", m.differences()), ("pairs", m.pairs())):
        shown = json.loads(json.dumps([asdict(f) for f in found]))
        wanted = [{"inactive" if key == "silent" else key: value for key, value in f.items()} for f in recorded[name]]
        assert len(shown) == len(wanted) > 5, name
        for one, other in zip(shown, wanted):
            assert one.keys() - {"over"} == other.keys(), name
            assert {k: v for k, v in one.items() if k != "over"} == {k: _near(v) for k, v in other.items()}, name
    assert from_json(to_json(m)) == m


def _near(value):
    """A number within rounding of the same sums on another machine; dicts by value."""
    if isinstance(value, dict):
        return {key: _near(v) for key, v in value.items()}
    return pytest.approx(value) if isinstance(value, float) else value


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "matrix.json").write_bytes(b"\xff")
    for path in (tmp_path / "nothing.json", tmp_path / "matrix.json", tmp_path):
        with pytest.raises(DataError, match=f"{re.escape(str(path))} cannot be read.*madx evaluate"):
            read_matrix(path)
    (tmp_path / "matrix.json").write_text("{")
    with pytest.raises(DataError, match="matrix.json: .*not JSON"):
        read_matrix(tmp_path / "matrix.json")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not JSON"),
        ("[]", "expected format"),
        ('{"format": "other"}', "got 'other'"),
        ('{"format": "madx transfer matrix", "version": 4}', "version 1 or 2 or 3, got .* version 4"),
        ('{"format": "madx transfer matrix", "version": 3}', "checksum: missing"),
        ('{"format": "madx transfer matrix", "version": true}', "got .* version True"),
        ('{"format": "madx transfer matrix", "version": 2}', "damaged.*meta"),
        ('{"format": "madx transfer matrix", "version": 1, "cells": [{"scores": 3}]}', "damaged"),
    ],
)
def test_from_json_bad_input(text, message):
    with pytest.raises(DataError, match=message):
        from_json(text)
