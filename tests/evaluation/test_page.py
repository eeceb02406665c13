"""The report of a run: whole, self-contained, escaped, legible; and the same facts in Markdown."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from cli_tools import failed, run
from hypothesis import given, settings
from hypothesis import strategies as st
from test_matrix import META, cells

from madx.data.labelled.conll import Sentence, write_conll
from madx.errors import DataError, MadxError
from madx.metrics.scores import entity_scores, word_scores
from madx.report.page import figures, write_report
from madx.report.page.confusion import INVENTED, MISSED, confusion, examples
from madx.report.page.record import FORMAT, VERSION, read_run, save_modules
from madx.report.page.svg import Svg, log_ticks, luminance, shade, ticks
from madx.results import Cell, Missing, TransferMatrix, to_json

SECTIONS = ["scores", "differences", "types", "learning", "languages", "errors", "confusion", "compositions", "data"]
HOSTILE = "<script>alert(1)</script>"
GOLD = [
    Sentence(
        ("Anna", "met", HOSTILE, "in", "Dar", "es", "Salaam"), ("B-PER", "O", "O", "O", "B-LOC", "I-LOC", "I-LOC"), 1
    ),
    Sentence(("Bob", "&", "Co", "grew"), ("B-ORG", "I-ORG", "I-ORG", "O"), 9),
    Sentence(("it", "rains"), ("O", "O"), 14),
]
FOUND = [["B-PER", "O", "O", "O", "B-ORG", "I-ORG", "O"], ["B-ORG", "I-ORG", "I-ORG", "O"], ["O", "B-PER"]]
ACTION = {
    "site": "layer.0.ffn",
    "module": "swa",
    "component": "bottleneck",
    "what": "8->4->8",
    "change": 0.1,
    "calls": 1,
    "averaged": None,
}


def explanation(composition, inactive=()):
    return {
        "composition": composition,
        "base": "tiny",
        "actions": [ACTION],
        "decoder": "the base's own",
        "head": "ner: 7 labels",
        "inactive": list(inactive),
        "measured": True,
    }


def fill(folder, *, inactive=(), seeds=(1, 2)):
    """A run's folder with three languages; Swahili has predictions."""
    scored = [
        c
        for t in ("eng", "hau")
        for c in cells(t, seeds=seeds, sentences=12, controls=("none", "source", "target")[: 2 + (t != "eng")])
    ]
    for control, composition in (("none", "ner"), ("source", "eng + ner"), ("target", "swa + ner")):
        for seed in seeds:
            found = FOUND if control == "target" else [["O"] * len(s.tokens) for s in GOLD]
            scores = entity_scores([list(s.tags) for s in GOLD], found)
            scored.append(
                Cell(
                    "swa",
                    control,
                    composition,
                    seed,
                    scores,
                    explanation(composition, inactive if control == "target" else ()),
                )
            )
            write_conll(folder / "predictions" / f"swa.{control}.seed{seed}.conll", GOLD, found)
    matrix = TransferMatrix(
        META, tuple(scored), (Missing("eng", "target", "the source itself: see source"),), ("eng", "swa", "hau")
    )
    (folder / "matrix.json").write_text(to_json(matrix))
    history = [{"step": s, "loss": 3.0 / s, "perplexity": 300.0 / s, "accuracy": 0.1} for s in (1, 5, 10)]
    trained = {
        "steps": 10,
        "seconds": 3.2,
        "best_step": 10,
        "history": history,
        "corpus": {"lines": 9, "tokens": 900, "words": 500, "unknown": 9},
        "data": [{"path": "swa<b>.txt", "sha256": "cd" * 32}],
    }
    task = {
        "steps": 20,
        "best_step": 10,
        "history": [{"step": s, "loss": 1.0, "f1": 5.0 * s, "phase": "sparse 1"} for s in (5, 10)],
    }
    modules = {
        "swa": {
            "role": "language",
            "language": "swa",
            "task": None,
            "licence": "MIT",
            "components": {"bottleneck": {}},
            "training": trained,
        },
        "ner": {
            "role": "task",
            "language": "eng",
            "task": "ner",
            "licence": None,
            "components": {"sparse_diff": {}},
            "training": task,
        },
    }
    (folder / "modules.json").write_text(json.dumps({"format": FORMAT, "version": VERSION, "modules": modules}))
    return matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    fill(folder)
    write_report(folder)
    return folder


@pytest.fixture
def html(folder):
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks that tags close in order; gathers tags, attributes, ids and text."""

    VOID = {"meta", "br", "hr", "img", "link", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        tag = self.open[-1] if self.open else ""
        self.text[tag] = self.text.get(tag, "") + data


# ---- the page --------------------------------------------------------------------------------------------------------


def test_it_is_html_with_every_section_and_each_is_linked(html):
    page = Page(html)
    assert html.startswith("<!doctype html>") and page.tags.count("h1") == 1
    assert [a["id"] for t, a in page.attributes if t == "section"] == SECTIONS
    assert [a["href"] for t, a in page.attributes if t == "a"][1:] == [f"#{name}" for name in SECTIONS]
    assert page.tags.count("svg") >= 9 and all(a.get("aria-label") for t, a in page.attributes if t == "svg")
    for words in (
        "95 %",
        "within noise",
        "seed 1",
        "swa + ner",
        "layer.0.ffn",
        "8-&gt;4-&gt;8",
        META.note,
        "cd" * 32,
        "torch",
    ):
        assert words in html, words


def test_nothing_comes_from_elsewhere_and_nothing_runs(html):
    assert "default-src 'none'" in html
    assert not re.search(r"https?:|src=|@import|url\(|<link|<iframe|<object|<script|javascript:|\son\w+=", html)


def test_texts_of_the_data_are_escaped(html, folder):
    assert (
        html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2
        and "swa&lt;b&gt;.txt" in html
        and "Bob &amp; Co" not in html
    )
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert HOSTILE not in text and "\\<script\\>" in text


def test_what_scrolls_can_be_reached_by_keyboard_and_is_named(html):
    scrolling = [a for t, a in Page(html).attributes if a.get("class") == "wide"]
    assert scrolling and all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in scrolling)


def test_markdown_has_the_same_facts(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    for words in (
        "# Transfer matrix",
        "## Differences",
        "## Scores and corpora",
        "## Errors",
        "**[Dar es Salaam · LOC ✗]**",
        "**[Dar es · ORG ✗]**",
        "gold \\ predicted",
        "## Compositions",
        "layer.0.ffn",
        "## Modules",
    ):
        assert words in text, words


def test_an_inactive_module_is_an_alarm(tmp_path):
    fill(tmp_path, inactive=["swa"])
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert 'role="alert"' in page and "INACTIVE MODULE: swa did not act" in page and "<b>INACTIVE: swa</b>" in page


def test_one_seed_and_no_records_are_said(tmp_path):
    fill(tmp_path, seeds=(1,))
    (tmp_path / "modules.json").unlink()
    for file in (tmp_path / "predictions").iterdir():
        file.unlink()
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    for words in (
        "one seed, so no interval",
        "no training records",
        "Nothing is recorded of the corpora",
        "predictions=true",
    ):
        assert words in text
    assert [a["id"] for t, a in Page(text).attributes if t == "section"] == SECTIONS


def test_plain_tags_have_a_report_too(tmp_path):
    gold = [Sentence(("the", "old", "man"), ("DET", "ADJ", "NOUN"), 1), Sentence(("go",), ("VERB",), 5)]
    found = [["DET", "NOUN", "NOUN"], ["VERB"]]
    made = [Cell("swa", c, c, 1, word_scores([s.tags for s in gold], found)) for c in ("none", "target")]
    (tmp_path / "matrix.json").write_text(to_json(TransferMatrix(META, tuple(made))))
    write_conll(tmp_path / "predictions" / "swa.target.seed1.conll", gold, found)
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert (
        "Macro F1" in text
        and "ADJ → NOUN" in text
        and "1 of 2 sentences" in text
        and "entit" not in text.split("<main>")[1].lower()
    )
    Page(text)


def test_a_run_of_0_1_0_has_a_report(tmp_path):
    old = Path(__file__).parent / "run_of_0_1_0"
    assert '"silent"' in (old / "matrix.json").read_text() and '"parts"' in (old / "modules.json").read_text()
    folder = shutil.copytree(old, tmp_path / "run")
    write_report(folder)
    page, text = ((folder / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    Page(page)
    assert "INACTIVE MODULE: swa did not act" in page and "<b>INACTIVE: swa</b>" in page
    for said in (page, text):
        assert "swa: bottleneck 8" in said and "900 tokens" in said and "INACTIVE" in said and "ilent" not in said


def test_sentences_without_entities_have_a_report(tmp_path):
    gold, found = [Sentence(("it", "rains"), ("O", "O"), 1)], [["O", "O"]]
    cell = Cell("swa", "target", "swa + ner", 1, entity_scores([s.tags for s in gold], found))
    (tmp_path / "matrix.json").write_text(to_json(TransferMatrix(META, (cell,))))
    write_conll(tmp_path / "predictions" / "swa.target.seed1.conll", gold, found)
    write_report(tmp_path)
    assert "0 of 1 sentences" in (tmp_path / "report.html").read_text()


# ---- errors ----------------------------------------------------------------------------------------------------------


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


# ---- pictures and colours --------------------------------------------------------------------------------------------


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


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_faults_of_a_folder(tmp_path):
    with pytest.raises(DataError, match="no matrix.json there; name the folder"):
        write_report(tmp_path / "none")
    fill(tmp_path)
    (tmp_path / "modules.json").write_text("{")
    with pytest.raises(DataError, match="modules.json: damaged .*evaluate again"):
        read_run(tmp_path)
    (tmp_path / "modules.json").write_text('{"format": "x", "version": 1, "modules": {}}')
    with pytest.raises(DataError, match="format 'x' version 1"):
        read_run(tmp_path)
    (tmp_path / "modules.json").unlink()
    (tmp_path / "report.html").mkdir()
    with pytest.raises(MadxError, match="cannot write the report"):
        write_report(tmp_path)
    (tmp_path / "modules.json").mkdir()
    with pytest.raises(MadxError, match="cannot write the records of the modules"):
        save_modules(tmp_path, [])


def test_the_command_writes_it_again(folder, tmp_path):
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    done = run("report", folder)
    assert done.exit_code == 0 and "report.html" in done.stdout and (folder / "report.html").read_bytes() == before
    assert "no matrix.json" in failed(run("report", tmp_path))


def test_the_package_of_the_record_needs_no_engine():
    code = "import sys, madx.report.page.record; sys.exit('transformers' in sys.modules or 'jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
