"""A comparison as table, text and picture: the best, what seeds do not tell from it, and what failed."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console

from madx.errors import MadxError
from madx.report import save, to_rich
from madx.report.tables.comparison import table
from madx.report.tables.text import amount
from madx.results.comparison import Candidate, Comparison, spread

GOOD = Candidate(
    "full",
    1_200_000,
    4_900_000,
    80_000_000,
    3.2e12,
    30,
    [0.2, 0.1, 0.3],
    {1: 80.0, 2: 82.0, 3: 81.0},
    [1.0, 1.01, 0.99],
    ["m@1"],
)
LIKE = Candidate("adapters", 9000, 40_000, 9_000_000, 2e12, 30, [0.1], {1: 79.0, 2: 82.5, 3: 80.0}, [1.1])
WORSE = Candidate("head", 100, 900, 0, 1e12, 30, [0.05], {1: 40.0, 2: 42.0, 3: 41.0}, [1.0])
FAILED = Candidate("all", failure="out of memory")


def comparison(*candidates) -> Comparison:
    return Comparison(candidates, "ner", "f1", "tiny", "A remark.", {"torch": "2"}, {"dev.conll": "ab"}, "cpu")


def test_the_best_and_those_that_seeds_do_not_tell_from_it(tmp_path):
    whole = comparison(GOOD, LIKE, WORSE, FAILED)
    assert whole.best() is GOOD and whole.like_the_best() == {"adapters"}
    scores = [line[6] for line in table(whole)[1]]
    assert scores == ["*81.0 ± 1.0", "≈80.5 ± 1.8", "41.0 ± 1.0", "-"]
    assert [line[2] for line in table(whole)[1]] == ["4.9 MB", "40 kB", "900 B", "-"]
    assert table(whole)[1][0][5] == "0.2" and table(whole)[1][0][7] == "1.00 (0.99 to 1.00)"
    paths = save(whole, tmp_path)
    content = json.loads(paths[0].read_text())
    assert content["candidates"][0]["seconds"] == [0.2, 0.1, 0.3] and content["candidates"][0]["mean"] == 81.0
    console = Console(width=160, file=io.StringIO())
    console.print(to_rich(whole))
    for text in (paths[1].read_text(), console.file.getvalue()):
        assert "all: out of memory" in text and "A remark." in text and "≈80.5" in text
    assert imread(paths[2]).std() > 0.01


def test_nothing_measured_is_a_report_too(tmp_path):
    assert comparison(FAILED).best() is None and len(save(comparison(FAILED), tmp_path)) == 3
    with pytest.raises(MadxError, match="cannot write the comparison"):
        save(comparison(FAILED), tmp_path / "comparison.md")


@pytest.mark.parametrize(
    "value, text",
    [(None, "-"), (0, "0 B"), (999.4, "999 B"), (999.6, "1 kB"), (7_667_712, "7.67 MB"), (2e21, "2000 EB")],
)
def test_amounts(value, text):
    assert amount(value, "B") == text


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=9))
def test_the_spread_encloses_the_median(values):
    middle, low, high = spread(values)
    assert low <= middle + 1e-9 and middle <= high + 1e-9 and spread([]) is None
