"""The parts of a page: confusion and examples of errors, pictures and colours."""

import re
from importlib.resources import files

import pytest
from evaluation_tools import FOUND, GOLD
from hypothesis import given, settings
from hypothesis import strategies as st

from madx.data.labelled.conll import Sentence
from madx.report.page import figures
from madx.report.page.confusion import INVENTED, MISSED, confusion, examples
from madx.report.page.svg import Svg, log_ticks, luminance, shade, ticks


def test_confusion_of_entities():
    tags = [s.tags for s in GOLD]
    assert confusion(tags, FOUND, "entities") == {
        ("PER", "PER"): 1,
        ("LOC", "ORG"): 1,
        ("ORG", "ORG"): 1,
        (INVENTED, "PER"): 1,
    }
    assert confusion([["B-A", "O"]], [["O", "O"]], "entities") == {("A", MISSED): 1}
    assert confusion([["B-A", "I-A", "I-A"]], [["B-B", "B-A", "I-A"]], "entities") == {("A", "A"): 1}, (
        "the one that shares most words"
    )


@given(st.lists(st.tuples(*[st.lists(st.sampled_from("AB"), min_size=4, max_size=4)] * 2), max_size=4))
@settings(derandomize=True, max_examples=30, deadline=None)
def test_confusion_of_words_counts_each_once(pairs):
    gold, found = [g for g, _ in pairs], [f for _, f in pairs]
    assert confusion(gold, found, "words").total() == 4 * len(pairs)


def test_examples_are_evenly_spaced_and_mark_each_side():
    sentences = [Sentence(("a", "b"), ("B-X", "O"), n) for n in range(10)]
    wrong = [["O", "B-X"] if n % 2 else ["B-X", "O"] for n in range(10)]
    shown, count = examples(sentences, wrong, "entities", most=2)
    assert count == 5 and [e.line for e in shown] == [1, 5]
    assert [(p.text, p.label, p.right) for p in shown[0].gold] == [("a", "X", False), ("b", None, True)]
    assert [(p.text, p.label, p.right) for p in shown[0].predicted] == [("a", None, True), ("b", "X", False)]
    assert len(examples(sentences, wrong, "entities", most=9)[0]) == 5


def contrast(a, b):
    high, low = sorted((luminance([int(c[i : i + 2], 16) for i in (1, 3, 5)]) for c in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@given(st.floats(-1, 2))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_text_in_a_heatmap_has_contrast(share):
    assert contrast(*shade(share)) >= 4.5


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_the_style_sheet_has_contrast_in_both_modes(mode):
    css = (files("madx.report.page") / "report.css").read_text()
    light, dark = (dict(re.findall(r"(--\w+): (#\w{6})", part)) for part in css.split("* {")[0].split("@media", 1))
    assert light.keys() == dark.keys()
    colours = light if mode == "light" else dark
    for page in ("--page", "--panel"):
        for name in ("--ink", "--quiet", "--link", "--loud"):
            assert contrast(colours[name], colours[page]) >= 4.5, (name, page)
    for i in range(6):
        assert (
            contrast(colours[f"--s{i}"], colours["--page"]) >= 3
            and contrast(colours["--ink"], colours[f"--k{i}"]) >= 4.5
        )


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_ticks_are_few_round_and_inside(low, span):
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 6 and all(low - span * 1e-6 - 1e-9 <= t <= low + span * (1 + 1e-6) for t in found)
    assert log_ticks(3, 3000) == [10, 100, 1000]


def test_pictures_escape_and_stay_inside():
    svg = Svg(10, 10, 'a"<b')
    svg.text(1, 1, "<i>&", css="label")
    assert 'aria-label="a&quot;&lt;b"' in str(svg) and "&lt;i&gt;&amp;" in str(svg)
    line = figures.Curve("swa", [(1, 5.0), (9, 2.0)], 9)
    drawn = figures.curves("x", [line] * 7, y_name="f1", logarithmic=True)
    places = [
        tuple(map(float, p.split(","))) for group in re.findall(r'points="([^"]+)"', str(drawn)) for p in group.split()
    ]
    assert all(0 <= x <= drawn.width and 0 <= y <= drawn.height for x, y in places)
    assert figures.scatter("x", [("a", 1e3, 5.0), ("b", 1e6, 5.0)], x_name="tokens", y_name="f1").parts
