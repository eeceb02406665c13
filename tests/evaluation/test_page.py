"""The page of a run: whole, self-contained, escaped, legible; and the same facts in Markdown."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from cli_tools import failed, run
from evaluation_tools import HOSTILE, META, fill

from madx.data.labelled.conll import Sentence, write_conll
from madx.errors import DataError, MadxError
from madx.metrics.scores import entity_scores, word_scores
from madx.report.page import write_report
from madx.report.page.record import read_run, save_modules
from madx.results import Cell, TransferMatrix, to_json

SECTIONS = ["scores", "differences", "types", "learning", "languages", "errors", "confusion", "compositions", "data"]


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


def test_it_is_html_with_every_section_and_each_is_linked(html):
    page = Page(html)
    assert html.startswith("<!doctype html>") and page.tags.count("h1") == 1
    assert [a["id"] for t, a in page.attributes if t == "section"] == SECTIONS
    assert [a["href"] for t, a in page.attributes if t == "a"][1:] == [f"#{name}" for name in SECTIONS]
    assert page.tags.count("svg") >= 9 and all(a.get("aria-label") for t, a in page.attributes if t == "svg")
    texts = [
        "95 %",
        "within noise",
        "seed 1",
        "swa + ner",
        "layer.0.ffn",
        "8-&gt;4-&gt;8",
        META.note,
        "cd" * 32,
        "torch",
    ]
    assert [text for text in texts if text not in html] == []


def test_nothing_comes_from_elsewhere_and_nothing_runs(html):
    assert "default-src 'none'" in html
    assert not re.search(r"https?:|src=|@import|url\(|<link|<iframe|<object|<script|javascript:|\son\w+=", html)


def test_texts_of_the_data_are_escaped(html, folder):
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 2 and "swa&lt;b&gt;.txt" in html
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert HOSTILE not in text and "\\<script\\>" in text


def test_what_scrolls_can_be_reached_by_keyboard_and_is_named(html):
    scrolling = [a for t, a in Page(html).attributes if a.get("class") == "wide"]
    assert scrolling and all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in scrolling)


def test_markdown_has_the_same_facts(folder):
    text = (folder / "report.md").read_text(encoding="utf-8")
    heads = ["# Transfer matrix", *(f"## {h}" for h in ("Differences", "Scores and corpora", "Errors", "Modules"))]
    facts = [
        "**[Dar es Salaam · LOC ✗]**",
        "**[Dar es · ORG ✗]**",
        "gold \\ predicted",
        "## Compositions",
        "layer.0.ffn",
    ]
    assert [fact for fact in heads + facts if fact not in text] == []


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
    for fact in ("one seed, so no interval", "no training records", "of the corpora", "predictions=true"):
        assert fact in text
    assert [a["id"] for t, a in Page(text).attributes if t == "section"] == SECTIONS


def test_plain_tags_have_a_report_too(tmp_path):
    gold = [Sentence(("the", "old", "man"), ("DET", "ADJ", "NOUN"), 1), Sentence(("go",), ("VERB",), 5)]
    found = [["DET", "NOUN", "NOUN"], ["VERB"]]
    made = [Cell("swa", c, c, 1, word_scores([s.tags for s in gold], found)) for c in ("none", "target")]
    (tmp_path / "matrix.json").write_text(to_json(TransferMatrix(META, tuple(made))))
    write_conll(tmp_path / "predictions" / "swa.target.seed1.conll", gold, found)
    write_report(tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert "Macro F1" in text and "ADJ → NOUN" in text and "1 of 2 sentences" in text
    assert "entit" not in text.split("<main>")[1].lower()
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
