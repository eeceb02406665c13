"""A language whose own module lowers the score is told first, with what can be done."""

import dataclasses

import pytest
from evaluation_tools import cells, matrix, printed

from madx.report import to_markdown
from madx.report.tables.harm import REMEDIES, harm_lines

SEEDS = (1, 2, 3, 4)


def swapped(group, control):
    """Cells in which the target's module has the scores of another control, and that control those of the target's."""
    names = {"target": control, control: "target"}
    return [dataclasses.replace(c, control=names.get(c.control, c.control)) for c in group]


@pytest.fixture(scope="module")
def harmed():
    # made-up scores rise from none over source to target
    good, bad = cells("hau", SEEDS, sentences=200), swapped(cells("swa", SEEDS, sentences=200), "none")
    return matrix(good, bad)


def test_only_the_harmed_language_is_named_with_the_better_control(harmed):
    lines = harm_lines(harmed)
    assert len(lines) == 2 and lines[0].startswith("swa: the target's module LOWERS the score") and lines[1] == REMEDIES
    delta = next(c.delta for c in harmed.differences() if (c.target, c.minus) == ("swa", "none"))
    assert f"{-delta:.1f} points below none" in lines[0] and lines[0].endswith("Better here: none.")
    assert [(c.target, c.minus) for c in harmed.harmed() if c.minus == "none"] == [("swa", "none")]


def test_it_stands_before_the_scores(harmed):
    for text in (printed(harmed), to_markdown(harmed)):
        assert text.index("LOWERS") < text.index("hau")


def test_within_noise_or_with_an_inactive_module_nothing_is_said():
    assert harm_lines(matrix(swapped(cells("swa", (1,)), "none"))) == []  # one seed tells nothing
    inactive = swapped(cells("swa", SEEDS, inactive=("swa",), sentences=200), "none")
    assert harm_lines(matrix(inactive)) == []
    assert harm_lines(matrix(cells("swa", SEEDS, sentences=200))) == []
