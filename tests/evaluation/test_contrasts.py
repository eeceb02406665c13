import csv
import io
import json
import random
import re
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
from evaluation_tools import printed
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from madx.metrics.scores import entity_scores
from madx.metrics.significance import holm, judged, resampled_f1, seed_difference
from madx.report import to_csv, to_markdown
from madx.report.marks import mark_of
from madx.report.page.sections.scores import difference_figure, pair_table
from madx.report.pictures.matrix import heatmap_figure
from madx.report.tables.matrix import contrast_text
from madx.report.tables.notes import notes
from madx.results import Cell, Meta, Missing, TransferMatrix, from_json, to_json
from madx.results.contrasts import best, between, like_best

META = Meta("ner", "eng", "tiny-base")
SKILL = {"none": 0.6, "source": 0.6, "target": 0.9, "mean": 0.62, "weighted": 0.75, "emea": 0.9}


def cell(target, control, seed, *, skill=None, sentences=80, draw=None):
    gold = [
        random.Random(f"{target} {i}").choices(["O", "O", "B-PER", "I-PER", "B-LOC"], k=8) for i in range(sentences)
    ]
    rng = random.Random(f"{target} {draw or control} {seed}")
    predicted = [[t if rng.random() < (skill or SKILL[control]) else "O" for t in s] for s in gold]
    return Cell(target, control, f"{control} + ner", seed, entity_scores(gold, predicted))


def matrix(*targets, controls=tuple(SKILL), seeds=(1, 2, 3, 4, 5), **kw):
    return TransferMatrix(META, tuple(cell(t, c, s, **kw) for t in targets for c in controls for s in seeds))


def test_every_pair_is_compared_and_the_average_once():
    m = matrix("swa", "hau")
    pairs = m.pairs(samples=200)
    assert len(pairs) == 3 * 15 and m.columns == tuple(SKILL)  # 6 columns, two languages and their average
    assert len({(c.target, frozenset((c.control, c.minus))) for c in pairs}) == len(pairs)
    assert len(matrix("swa").pairs(samples=200)) == 15  # an average of one language would count it twice
    assert [(c.control, c.minus) for c in m.differences(samples=200)[:3]] == [
        ("target", "none"),
        ("target", "source"),
        ("target", "mean"),
    ]
    assert between(pairs, "swa", "weighted", "emea") is between(pairs, "swa", "emea", "weighted") is not None


def test_a_pair_is_judged_by_both_tests_and_corrected_by_holm():
    m = matrix("swa", "hau")
    pairs = m.pairs(samples=300, seed=4)
    found = between(pairs, "hau", "weighted", "none")
    a, b = ([c.scores.f1 for c in m.group("hau", x)] for x in ("weighted", "none"))
    assert found.p_seeds == pytest.approx(stats.ttest_rel(a, b).pvalue)
    assert found.p == max(found.p_seeds, found.sentences.p)
    assert [c.p_holm for c in pairs] == holm([c.p for c in pairs]) and max(c.p_holm for c in pairs) <= 1
    assert m.pairs(samples=300, seed=4) == pairs != m.pairs(samples=300, seed=5)
    alone = {(c.control, c.minus): c for c in matrix("hau").pairs(samples=300, seed=4)}
    assert alone["weighted", "none"].sentences == found.sentences  # the company of other languages changes nothing


def test_the_average_resamples_within_each_language():
    m = matrix("swa", "hau", sentences=40)
    found = between(m.pairs(samples=400), "average", "target", "none")
    single = [between(m.pairs(samples=400), t, "target", "none").sentences for t in ("swa", "hau")]
    assert found.sentences.delta == pytest.approx(np.mean([s.delta for s in single]))
    widths = [s.high - s.low for s in single]
    assert found.sentences.high - found.sentences.low < min(widths)  # of two independent draws the mean varies less


def test_clear_equal_and_same():
    m = matrix("swa")
    assert between(m.pairs(), "swa", "target", "none").mark == ""
    assert between(m.pairs(), "swa", "none", "source").mark == "≈"
    same = TransferMatrix(
        META, tuple(cell("swa", c, s, skill=0.7, draw="one") for c in ("none", "target") for s in (1, 2, 3))
    )
    (only,) = same.pairs()
    assert (only.delta, only.p, only.sentences.p, only.p_seeds, only.noise) == (0, 1, 1, 1, True)
    (one,) = matrix("swa", controls=("none", "target"), seeds=(1,)).pairs()
    assert (
        one.sentences.p < 0.01 and one.p_seeds is None and one.p == 1 and one.noise
    )  # nothing is known of other seeds


def test_alone_but_not_after_the_correction():
    m = matrix("swa", "hau", "yor", seeds=(1, 2, 3))
    alone = [c for c in m.pairs() if c.mark == "°"]
    assert alone and all(c.p < 0.05 <= c.p_holm for c in alone)
    said = " ".join(notes(m))
    assert "not after Holm's correction over the 60 pairs" in said and "10,000 resamples" in said
    assert "°" in to_markdown(m)


def test_noise_is_marked_beside_the_best_in_every_output():
    m = matrix("swa")
    rows = [r for r in m.table() if r.target == "swa"]
    assert {*best(rows), *like_best(rows, m.pairs())} == {"target", "emea"}
    other = next(iter(like_best(rows, m.pairs())))
    line = next(x for x in to_markdown(m).splitlines() if x.startswith("| swa"))
    assert line.count("≈") == 1 and line.count("**") == 2
    figure = heatmap_figure(m)
    assert sum("≈" in t.get_text() for t in figure.axes[0].texts) == 1
    lines = {x["control"]: x for x in csv.DictReader(io.StringIO(to_csv(m)))}
    top = next(iter(best(rows)))
    assert top in lines[other]["within_noise_of"].split() and "none" in lines[other]["beyond_noise_of"].split()
    content = json.loads(to_json(m))
    assert len(content["pairs"]) == 15 and content["tests"]["correction"].startswith("Holm")
    assert {"p", "p_holm", "p_seeds", "low", "high", "sentences", "noise"} <= content["pairs"][0].keys()


def average(m, control):
    return next(r for r in m.table() if (r.target, r.control) == ("average", control))


def test_a_proxy_is_averaged_over_the_languages_that_it_serves():
    controls, seeds = ("none", "source", "target"), (1, 2)
    m = TransferMatrix(
        META,
        tuple(cell(t, c, s) for t in ("swa", "hau", "zul") for c in controls for s in seeds)
        + tuple(cell("yor", c, s) for c in ("none", "source") for s in seeds)  # it has no module
        + tuple(cell(t, "weighted", s) for t in ("hau", "yor") for s in seeds),
        missing=(Missing("swa", "weighted", "no text for 'swa'"),),
    )
    assert m.averaged() == m.averaged("none") == ["swa", "hau", "zul"] and m.averaged("weighted") == ["hau", "yor"]
    row = average(m, "weighted")
    of_seeds = [np.mean([m.group(t, "weighted")[i].scores.f1 for t in ("hau", "yor")]) for i in (0, 1)]
    assert (row.mean, row.languages, row.over) == (pytest.approx(np.mean(of_seeds)), 2, ("hau", "yor"))
    assert average(m, "none").over == ("swa", "hau", "zul")
    rows = [r for r in m.table() if r.target == "average"]
    assert best(rows) == {"target"} and "weighted" not in like_best(rows, m.pairs())  # over other languages
    found = {(c.control, c.minus): c for c in m.pairs(samples=200) if c.target == "average"}
    assert ("target", "weighted") not in found, "one language alone has both, hau, whose own row has the pair"
    assert found["weighted", "none"].languages == 2 and found["target", "none"].languages == 3
    text, shown = to_markdown(m), printed(m, 200)
    assert "average under weighted over the 2 of 4 target languages that it serves: hau, yor" in text
    assert "average over 3 of 4 target languages, those with every control: swa, hau, zul" in text
    for line in (next(x for x in t.splitlines() if x.strip("| ").startswith("average ")) for t in (text, shown)):
        assert "(2)" in line and "(3)" in line
    assert any("(2)" in t.get_text() for t in heatmap_figure(m).axes[0].texts)


def test_averages_are_compared_over_the_languages_that_both_have():
    seeds = (1, 2, 3)
    m = TransferMatrix(
        META,
        tuple(cell(t, c, s) for t in ("swa", "hau", "zul") for c in ("none", "target") for s in seeds)
        + tuple(cell(t, "weighted", s) for t in ("hau", "zul") for s in seeds),
    )
    found = between(m.pairs(samples=200), "average", "weighted", "none")
    mean = np.mean(
        [m.macro(["hau", "zul"], c).scores[s] * k for c, k in (("weighted", 2), ("none", -2)) for s in seeds]
    )
    assert found.languages == 2 and found.delta == pytest.approx(mean)
    assert between(m.pairs(samples=200), "average", "target", "none").languages == 3


def test_columns_with_one_composition_and_one_result_are_one_column():
    seeds = (1, 2, 3)
    cells = tuple(cell("swa", c, s) for c in ("none", "source", "target") for s in seeds)
    again = tuple(replace(c, control="mean") for c in cells if c.control == "source")
    m = TransferMatrix(META, cells + again)
    assert m.columns == ("none", "source", "target") and m.doubles() == {"mean": ["source"]}
    assert m.pairs(samples=200) == TransferMatrix(META, cells).pairs(samples=200)
    for text in (to_markdown(m), printed(m)):
        assert "no column mean: its compositions are those of source" in text
    assert len(to_csv(m).splitlines()) == 1 + len(cells) and from_json(to_json(m)) == m
    # in a second language the mean is a composition of its own: the column stays, and its average has both languages
    more = tuple(cell("hau", c, s) for c in ("none", "source", "target", "mean") for s in seeds)
    m = TransferMatrix(META, cells + again + more)
    assert m.columns == ("none", "source", "target", "mean") and m.averaged() == ["swa", "hau"]
    place = next(r for r in m.table() if (r.target, r.control) == ("swa", "mean"))
    assert place.mean is None and place.reason == "its composition is that of source: see source"
    both = np.mean([m.macro(["swa"], "source").scores[s] + m.macro(["hau"], "mean").scores[s] for s in seeds]) / 2
    assert average(m, "mean").mean == pytest.approx(both)
    assert between(m.pairs(), "swa", "mean", "none") is None and between(m.pairs(), "average", "mean", "none")
    # the same composition with another result is no double: emea changes the weights of the mean
    emea = tuple(replace(c, control="emea", scores=cell("swa", "emea", c.seed).scores) for c in again)
    assert "emea" in TransferMatrix(META, cells + emea).columns


def test_a_mark_means_one_thing_in_text_page_and_picture():
    m = matrix("swa", "hau", "yor", seeds=(1, 2, 3))
    shown = m.differences()
    assert {c.mark for c in shown} >= {"°", ""}
    page = str(difference_figure(m, shown).svg)
    hints = dict(re.findall(r"<title>(\w+: target − \w+) [^,]+, ([^<]+)</title>", page))
    assert len(hints) == len(shown)
    figure = heatmap_figure(m)
    drawn = {
        (line.get_xdata()[0], line.get_marker()): line
        for line in figure.axes[2].lines
        if len(line.get_xdata()) == 1 and line.get_marker() in "os"
    }
    for c in shown:
        mark = mark_of(c)
        assert unescape(hints[f"{c.target}: target − {c.minus}"]) == mark.meaning
        assert contrast_text(c).strip("+-0123456789.!") == mark.sign
        if c.minus in ("none", "source"):
            line = drawn[c.delta, "o" if c.minus == "none" else "s"]
            half, hollow = line.get_fillstyle() == "left", line.get_markerfacecolor() == "white"
            assert (half, hollow) == (mark.shape == "half", mark.shape == "hollow")
    count = {shape: sum(mark_of(c).shape == shape for c in shown) for shape in ("hollow", "half", "full")}
    assert page.count(" full half") == count["half"] and page.count('hollow"') == count["hollow"] + count["half"]
    strong = pair_table(shown).strong
    assert [i for i, c in enumerate(shown) if c.mark == ""] == strong and len(strong) == count["full"]


def test_a_language_without_a_module_shows_its_proxy_in_the_picture():
    cells = matrix("swa").cells + matrix("yor", controls=("none", "source", "mean", "weighted")).cells
    figure = heatmap_figure(TransferMatrix(META, cells))
    assert [t.get_text() for t in figure.axes[2].get_yticklabels()] == ["swa", "yor (weighted)", "average"]
    assert "weighted" in [t.get_text() for t in figure.axes[0].get_xticklabels()]


def test_too_many_pairs_for_the_resamples_are_said():
    m = matrix(*(f"l{i}" for i in range(20)), seeds=(1, 2), sentences=3)
    assert len(m.pairs()) * 2 / 10_001 >= 0.05 and any("too many for 10,000 resamples" in line for line in notes(m))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(derandomize=True, max_examples=50, deadline=None)
def test_holm(ps):
    found = holm(ps)
    assert all(p <= q <= 1 for p, q in zip(ps, found)) and min(found) == min(1, len(ps) * min(ps))
    assert [q for _, q in sorted(zip(ps, found))] == sorted(found)  # order is kept
    shuffled = random.Random(0).sample(range(len(ps)), len(ps))
    assert holm([ps[i] for i in shuffled]) == [found[i] for i in shuffled]


def test_holm_equals_the_published_steps():
    ps = [0.01, 0.04, 0.03, 0.005]  # rejected at 0.05: while p_(j) <= 0.05 / (m - j + 1): 0.005 and 0.01 alone
    assert holm(ps) == pytest.approx([0.03, 0.06, 0.06, 0.02]) and holm([]) == []


counts = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)),
    min_size=1,
    max_size=15,
)


@given(counts, st.integers(0, 99))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_bootstrap_is_symmetric(rows, seed):
    from madx.metrics.scores import Statistics

    gold = [g for g, *_ in rows]
    a = Statistics([min(g, t) for g, t, *_ in rows], gold, [min(g, t) + w for g, t, w, *_ in rows])
    b = Statistics([min(g, t) for g, _, _, t, _ in rows], gold, [min(g, t) + w for g, _, _, t, w in rows])
    whole, drawn = resampled_f1([a, b, a], samples=200, seed=seed)
    there, back = (
        judged(whole[0] - whole[1], drawn[:, 0] - drawn[:, 1]),
        judged(whole[1] - whole[0], drawn[:, 1] - drawn[:, 0]),
    )
    assert (back.delta, back.low, back.high) == pytest.approx(
        (-there.delta, -there.high, -there.low)
    ) and back.p == there.p
    assert there.p > 0 and np.array_equal(drawn[:, 0], drawn[:, 2])
    turned, other = seed_difference(drawn[:3, 0], drawn[:3, 1]), seed_difference(drawn[:3, 1], drawn[:3, 0])
    assert turned.p == pytest.approx(other.p) and turned.noise == other.noise
