"""Text from outside in every printed place: it is shown, and neither a terminal, Markdown, HTML nor a spreadsheet obeys
it."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
import tiny
from cli_tools import run
from evaluation_tools import GOLD, cells, explanation
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text
from store_tools import alter, module, task

from madx.checksums import CHECKSUM, checksum
from madx.cli.console import PlainConsole
from madx.cli.using import _print_text
from madx.data.labelled.conll import Sentence, write_conll
from madx.jobs.prediction import Prediction
from madx.metrics.scores import entity_scores
from madx.outside import code, markdown, visible, visible_json
from madx.report import save, to_markdown, to_rich
from madx.report.page import write_report
from madx.report.page.record import FORMAT, VERSION
from madx.report.tables.text import csv_text, markdown_table
from madx.results import Cell, Entry, Matrices, Meta, Missing, TransferMatrix, to_json
from madx.results.comparison import Candidate, Comparison
from madx.store import Store
from madx.training.progress import ProgressView

HOSTILE = "=cmd[/x][bold]\x1b[31m<script>|`$a$\u202e\x9b2J"
#: as it is shown on a terminal
SHOWN = "=cmd[/x][bold]\\x1b[31m<script>|`$a$\\u202e\\x9b2J"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str, *, shown: str = SHOWN) -> str:
    assert not OBEYED.search(text), OBEYED.search(text)
    assert shown in text, text
    return text


def printed(thing, **options) -> str:
    console = PlainConsole(file=io.StringIO(), width=300, **options)
    console.print(thing)
    return console.file.getvalue()


# ---- the functions ---------------------------------------------------------------------------------------------------


@given(st.text())
def test_what_is_shown_cannot_be_obeyed_and_words_stay(text):
    assert not OBEYED.search(visible(text)) and visible(visible(text)) == visible(text)
    visible(text).encode()  # halves of surrogate pairs too
    assert not re.search(r"[\n\t]", visible(text, lines=False))


def test_letters_of_no_script_are_escaped():
    words = "Ọ̀yọ́ می\u200cروم हिन्दी क्\u200dष שלום\u200f العربية 日本 🏴\U000e0067 é"
    assert visible(words) == words and visible("a\tb\nc") == "a\tb\nc" and visible("a\udcffb") == "a\\udcffb"


@given(st.text())
def test_json_keeps_its_content(text):
    assert json.loads(visible_json(json.dumps(text, ensure_ascii=False))) == text
    assert not OBEYED.search(visible_json(json.dumps(text, ensure_ascii=False)))


@given(st.text(alphabet="ab |\\`*_<>[]#&~\n"))
def test_a_cell_of_markdown_never_ends_early(text):
    table = markdown_table(["a", "b"], [[markdown(text), "1"]])
    lines = table.split("\n")
    assert len(lines) == 3 and all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3 for line in lines), table
    assert not re.search(r"(?<!\\)(?:\\\\)*<", markdown(text))


@given(st.text(alphabet="ab`<\\\n"))
def test_code_ends_at_its_own_quotes_alone(text):
    (quotes,) = set(re.findall("^`+|`+$", shown := code(text)))
    assert quotes not in re.findall("`+", shown.removeprefix(quotes).removesuffix(quotes))


def test_formulas_are_text_and_numbers_are_numbers():
    values = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "plain", "1-2", -0.5, 7, None, ""]
    read = list(csv.reader(io.StringIO(csv_text(["=head"], [{"=head": value} for value in values]))))
    assert [row[0] if row else "" for row in read] == [
        "'=head",
        *("'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "'\\r=1", "'\uff1d1"),
        *("plain", "1-2", "-0.5", "7", "", ""),
    ]


# ---- the terminal ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [False, True])
def test_a_console_prints_every_kind_of_thing_as_it_is(colour):
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_column(Text(HOSTILE))
    table.add_column(HOSTILE, footer=HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE, style="red"), Text.assemble((HOSTILE, "bold"), HOSTILE))
    for thing in (HOSTILE, Text(HOSTILE, style="red"), table):
        text = printed(thing, force_terminal=colour, color_system="truecolor" if colour else None)
        text = re.sub("\x1b\\[[0-9;]*m", "", text) if colour else text
        harmless(text)
    lines = printed(table).rstrip().split("\n")
    assert len({len(line.rstrip()) for line in lines if line.startswith(("┏", "┡", "└"))}) == 1, (
        "the columns stay straight"
    )


def test_each_letter_keeps_its_style():
    text = Text.assemble(("a\x1b", "bold red"), ("b\u202ec", "green"), "d")
    shown = printed(text, force_terminal=True, color_system="standard")
    assert shown == "\x1b[1;31ma\x1b[0m\x1b[1;31m\\x1b\x1b[0m\x1b[32mb\x1b[0m\x1b[32m\\u202e\x1b[0m\x1b[32mc\x1b[0md\n"


def test_the_progress_of_a_run_prints_its_name_as_it_is(capsys):
    with ProgressView(HOSTILE, 1) as view:
        view.step(1, loss=1.0, tokens=1, score=HOSTILE)
    text = harmless(capsys.readouterr().err.replace("\n", ""))
    assert text.count("cmd[/x]") == 2


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store of a language module and a task module with hostile records, and of one whose fault is hostile."""
    folder, base = tmp_path_factory.mktemp("store"), tiny.base()
    Store(folder).save(module(base, "swa", "pfeiffer"))
    Store(folder).save(task(base))
    Store(folder).save(module(base, "torn", "pfeiffer"))
    training = {"data": [{"path": HOSTILE, "sha256": "ab" * 32, "bytes": 1}], "scores": {"dev": {"f1": 0.5}}}
    for name in ("swa", "ner"):
        alter(folder / name, lambda c: c.update(licence=HOSTILE, training=training, base=c["base"] | {"name": HOSTILE}))
    alter(folder / "torn", lambda c: c.update(role=HOSTILE))
    return folder


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["modules", "list"], 0),
        (["modules", "show", "ner"], 0),
        (["modules", "verify"], 1),
        (["modules", "remove", "swa"], 1),
        (["modules", "export", "swa", "--to", "adapterhub", "--out", "x"], 1),
        (["explain", "--stack", "swa + ner"], 1),
        (["predict", "--stack", "swa + ner", "text"], 1),
        (["evaluate", "--target", "swa={}", "--set", "run=x"], 1),
    ],
)
def test_commands_over_hostile_records(words, code, store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = run(*(word.format(HOSTILE) for word in words), "--store", store)
    assert result.exit_code == code and not isinstance(result.exception, (TypeError, ValueError)), result.exception
    assert not OBEYED.search(result.output) and "cmd[/x]" in result.output or words[1] == "remove", result.output


@pytest.mark.parametrize(
    "words",
    [
        ["train-language", "--base", HOSTILE, "--language", "swa", "--corpus", HOSTILE],
        ["train-task", "--base", HOSTILE, "--language", HOSTILE, "--data", HOSTILE, "--dev", HOSTILE],
        ["evaluate", "--target", f"{HOSTILE}={HOSTILE}"],
        ["evaluate", "--task-module", HOSTILE, "--target", "swa=x"],
        ["matrix", HOSTILE],
        ["compare", "--base", HOSTILE, "--language", "eng", "--data", HOSTILE, "--dev", HOSTILE],
        ["predict", "--stack", HOSTILE, "x"],
        ["explain", "--stack", "swa", "--base", HOSTILE],
        ["report", HOSTILE],
        ["export", "--stack", "swa", HOSTILE],
        ["modules", "show", HOSTILE],
        ["modules", "list", "--store", HOSTILE],
        ["modules", "import", HOSTILE, "--from", "adapterhub", "--role", "language", "--name", "x"],
        ["modules", "push", "swa", HOSTILE],
        ["modules", "pull", HOSTILE],
        ["modules", "types", HOSTILE],
        ["inspect", "--base", HOSTILE, "--corpus", HOSTILE],
        ["similarity", f"{HOSTILE}=x", "b=y"],
        ["config", HOSTILE],
        [HOSTILE],
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_no_command_stumbles_over_what_it_is_given(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code in (0, 1, 2) and isinstance(result.exception, (SystemExit, type(None))), result.exception


def test_predictions_are_shown_as_they_are(capsys):
    line = f"Anna {HOSTILE}"
    _print_text(Prediction(line, ((0, 4), (5, len(line))), (HOSTILE, "O"), (0.5, 0.5), spans=False))
    harmless(capsys.readouterr().out)


def test_similarity_of_hostile_languages(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = HOSTILE.replace("=", "")
    for number, text in enumerate(("habari ya leo", "the news of today")):
        (tmp_path / f"{number}.txt").write_text(text * 20)
    result = run("similarity", f"{name}=0.txt", "eng=1.txt")
    assert result.exit_code == 0, result.output
    harmless(result.stdout, shown=SHOWN.replace("=", ""))
    result = run("similarity", f"{name}=0.txt", "eng=1.txt", "--json")
    assert name in json.loads(result.stdout)["similarity"] and not OBEYED.search(result.stdout)


# ---- reports ---------------------------------------------------------------------------------------------------------


def hostile_matrix(language: str = HOSTILE) -> TransferMatrix:
    found = [["B-" + HOSTILE, "O", "O", "O", "O", "O", "O"], ["O"] * 4, ["O"] * 2]
    gold = [list(s.tags) for s in GOLD]
    record = explanation(f"{HOSTILE} + ner", [HOSTILE])
    record["actions"] = [record["actions"][0] | {"site": HOSTILE, "module": HOSTILE, "what": HOSTILE}]
    made = [
        Cell(language, control, f"{HOSTILE} + ner", seed, entity_scores(gold, found), record)
        for control in ("none", "target")
        for seed in (1, 2)
    ]
    made += cells("hau", seeds=(1, 2), controls=("none", "target"), sentences=6)
    meta = Meta(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, HOSTILE)
    return TransferMatrix(meta, tuple(made), (Missing(language, "mean", HOSTILE),), (language, "hau"))


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)


def check_markdown(text: str) -> None:
    assert not OBEYED.search(text) and "cmd" in text
    text = re.sub(r"(?ms)^```.*?^```$", "", text)
    outside_code = re.sub(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)", "", text)
    outside_code = "\n".join(line for line in outside_code.split("\n") if not line.startswith("    "))
    assert not re.search(r"(?<!\\)<script", outside_code), outside_code
    for line in text.split("\n"):
        if line.startswith("|"):
            assert "| --" in text and re.search(r"(?<!\\)\|$", line)


def check_csv(text: str) -> None:
    assert not OBEYED.search(text)
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            assert not cell.startswith(("=", "+", "@")) and (not cell.startswith("-") or float(cell) <= 0), cell


def test_every_file_of_a_matrix(tmp_path):
    whole = hostile_matrix()
    save(whole, tmp_path)
    check_csv((tmp_path / "matrix.csv").read_text())
    check_markdown((tmp_path / "matrix.md").read_text())
    assert (tmp_path / "heatmap.png").stat().st_size > 1000
    harmless(printed(to_rich(whole)))


def test_every_file_of_several_matrices(tmp_path):
    entry = Entry("ner", "adapters", "eng", hostile_matrix())
    whole = Matrices((entry,), ((HOSTILE, HOSTILE),), HOSTILE)
    save(whole, tmp_path)
    check_csv((tmp_path / "matrices.csv").read_text())
    check_markdown((tmp_path / "matrices.md").read_text())
    harmless(printed(to_rich(whole)))


def test_every_file_of_a_comparison(tmp_path):
    good = Candidate(HOSTILE, 9, 40, 90, 2e12, 30, [0.1], {1: 79.0, 2: 82.5}, [1.1])
    bad = Candidate(HOSTILE + "2", failure=HOSTILE)
    whole = Comparison((good, bad), HOSTILE, "f1", HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, {HOSTILE: HOSTILE}, HOSTILE)
    save(whole, tmp_path)
    check_markdown((tmp_path / "comparison.md").read_text())
    check_markdown(to_markdown(whole))
    harmless(printed(to_rich(whole)))


def test_the_page_of_a_run(tmp_path):
    matrix = hostile_matrix(language="swa [bold] $a$")  # a run's folder refuses names that no file can have
    (tmp_path / "matrix.json").write_text(to_json(matrix))
    sentences = [Sentence((HOSTILE, "Anna"), ("O", "B-PER"), 1)]
    training = {
        "steps": 10,
        "best_step": 10,
        "history": [{"step": 1, "loss": 1.0, "perplexity": 3.0}],
        "data": [{"path": HOSTILE, "sha256": HOSTILE}],
    }
    record = {"role": "language", "language": HOSTILE, "task": None, "licence": HOSTILE, "components": {HOSTILE: {}}}
    modules = {"swa": record | {"training": training}}
    content = {"format": FORMAT, "version": VERSION, "modules": modules, "predictions": {}}
    (tmp_path / "modules.json").write_text(json.dumps(content | {CHECKSUM: checksum(content)}))
    write_conll(tmp_path / "predictions" / "hau.target.seed1.conll", sentences, [["B-" + "LOC", "O"]])
    write_report(tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert not OBEYED.search(html) and "cmd[/x][bold]" in html
    assert "script" not in Tags(html).found and "onload" not in html
    check_markdown((tmp_path / "report.md").read_text())


def test_the_card_of_a_module(store):
    from madx.store.card import model_card

    check_markdown("cmd" + model_card(Store(store).read("ner")[0]).split("---", 2)[2])
