"""The three jobs and the use of their modules by command, end to end on a tiny base; and the faults a user can meet."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from cli_tools import ROOT, failed, process, run
from tiny_files import fill

from madx.store import Store

SMALL = "--set block_size=16 --set batch_size=4 --set held_out_blocks=4 --set train.learning_rate=0.01".split()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder in which all three jobs ran by command: base, data, modules, results; with the commands' outputs."""
    folder = fill(tmp_path_factory.mktemp("cli"))
    before = os.getcwd()
    os.chdir(folder)
    try:
        common = ["--base", "base", "--steps", "8", "--set", "cache=cache", *SMALL]
        outputs = {}
        for language in ("eng", "swa"):
            outputs[language] = run("train-language", "--language", language, "--corpus", f"{language}.txt", *common)
        task = ["--base", "base", "--language", "eng", "--data", "train.conll", "--dev", "dev.conll", "--seeds", "1,2"]
        outputs["ner"] = run("train-task", *task, "--epochs", "4", "--set", "train.learning_rate=0.01")
        for result in outputs.values():
            assert result.exit_code == 0, (result.output, result.exception)
        (folder / "outputs.json").write_text(json.dumps({k: [r.stdout, r.stderr] for k, r in outputs.items()}))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(trained, monkeypatch) -> Path:
    """The folder of `trained` as the current one."""
    monkeypatch.chdir(trained)
    return trained


# ---- the jobs --------------------------------------------------------------------------------------------------------


def test_training_ends_with_figures_and_the_next_command(trained):
    outputs = json.loads((trained / "outputs.json").read_text())
    text, messages = outputs["swa"]
    info = Store(trained / "modules").show("swa").info
    scores = info.training["scores"]
    assert f"{scores['held_out_before']['perplexity']:,.2f} without it" in text
    assert f"{scores['held_out_after']['perplexity']:,.2f} with it" in text
    assert str(trained / "modules" / "swa") in text
    assert "madx train-task --base base --language swa --store modules" in text
    assert "training" in messages and "Loading weights" not in messages
    assert info.training["settings"]["batch_size"] == 4 and info.training["steps"] == 8
    text, _ = outputs["ner"]
    assert "ner@1, ner@2" in text and "eng + ner@1" in text and "over 2 seeds" in text
    assert "madx evaluate --store modules --task-module ner" in text


def test_evaluate_prints_the_matrix_and_writes_it(here):
    done = run(
        *"evaluate --task-module ner --target eng=eng-test.conll --target swa=swa-test.conll --out results".split()
    )
    assert done.exit_code == 0, (done.output, done.exception)
    for word in ("swa", "none", "source", "target", "mean"):
        assert word in done.stdout
    for file in ("matrix.json", "matrix.csv", "matrix.md", "heatmap.png", "report.html", "report.md"):
        assert (here / "results" / file).stat().st_size > 0 and file in done.stdout
    assert len(list((here / "results" / "predictions").glob("swa.target.seed*.conll"))) == 2
    report = (here / "results" / "report.html").read_text(encoding="utf-8")
    for word in (
        "Language modules: held-out pseudo-perplexity",
        "Task modules: f1 on development data",
        "eng + ner@1",
        "tokens of its corpus",
    ):
        assert word in report


# ---- using modules ---------------------------------------------------------------------------------------------------


def test_predict_finds_the_names_in_every_format(here):
    text = "the Juma lives in city ."
    shown = run("predict", "--stack", "swa + ner@1", text)
    assert shown.exit_code == 0, (shown.output, shown.exception)
    record = json.loads(run("predict", "--stack", "swa + ner@1", "--format", "json", text).stdout)
    assert record["text"] == text and record["tokens"] == text.split() and len(record["tags"]) == 6
    found = record["entities"]
    assert {e["entity_group"] for e in found} <= {"PER", "LOC"} and found, "trained on four names"
    assert all(set(e) == {"entity_group", "score", "word", "start", "end"} for e in found)
    assert all(text[e["start"] : e["end"]] == e["word"] and 0 < e["score"] <= 1 for e in found)
    assert [text[start:end] for start, end in record["offsets"]] == record["tokens"] and len(record["scores"]) == 6
    assert shown.stdout.splitlines()[0] == text
    assert [line.split() for line in shown.stdout.splitlines()[1:]] == [
        [e["entity_group"], f"{e['score']:.0%}", *e["word"].split()] for e in found
    ]
    conll = run("predict", "--stack", "swa + ner@1", "--format", "conll", text).stdout
    assert conll == "".join(f"{word}\t{tag}\n" for word, tag in zip(record["tokens"], record["tags"])) + "\n"


def test_predict_has_the_reading_of_spans_that_is_asked_for(here, monkeypatch):
    tags = lambda self, engine, sentences, **more: [[("I-PER", 0.9), ("O", 0.8)] for _ in sentences]  # noqa: E731
    monkeypatch.setattr("madx.tasks.ner.NER.predict_scored", tags)
    for more, found in (([], 0), (["--scoring", "lenient"], 1)):
        shown = run("predict", "--stack", "swa + ner@1", "--format", "json", *more, "Anna sleeps")
        assert len(json.loads(shown.stdout)["entities"]) == found
    assert run("predict", "--stack", "swa + ner@1", "--scoring", "loose", "Anna sleeps").exit_code == 2


@pytest.mark.slow
def test_predict_reads_stdin_line_by_line(here):
    done = process(
        "predict", "--stack", "swa + ner@2", "--format", "json", cwd=here, input="Anna is in city .\n\nthe market\n"
    )
    assert done.returncode == 0 and done.stderr == ""
    assert [json.loads(line)["tokens"] for line in done.stdout.splitlines()] == [
        ["Anna", "is", "in", "city", "."],
        [],
        ["the", "market"],
    ]


AWKWARD = "Anna is in Ọ̀yọ́.\r\n\r\nthe O\u0323\u0300yo\u0323\u0301 market"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_predict_reads_stdin_in_every_encoding_with_a_mark(here, encoding):
    done = run("predict", "--stack", "swa + ner@1", "--format", "json", input=AWKWARD.encode(encoding))
    assert done.exit_code == 0, (done.output, done.exception)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["text"] for r in records] == AWKWARD.split("\r\n"), "the text is given back as it came"
    assert [r["tokens"] for r in records] == [
        ["Anna", "is", "in", "Ọ̀yọ́", "."],
        [],
        ["the", "O\u0323\u0300yo\u0323\u0301", "market"],
    ]
    assert [r["text"][a:b] for r in records for a, b in r["offsets"]] == [t for r in records for t in r["tokens"]]


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("Anna\ncafé\n".encode("latin-1"), ["standard input, line 2", "0xe9", "iconv -f LATIN1 -t UTF-8"]),
        ("Anna\n".encode("utf-16-le"), ["standard input, line 1", "iconv -f UTF-16LE -t UTF-8"]),
    ],
)
def test_predict_refuses_other_bytes_on_stdin(here, raw, wanted):
    error = failed(run("predict", "--stack", "swa + ner@1", input=raw))
    assert all(text in error for text in wanted), error


def test_predict_refuses_an_argument_that_is_not_utf8_and_a_closed_stdin(here, monkeypatch):
    error = failed(run("predict", "--stack", "swa + ner@1", "Anna", "caf\udce9"))
    assert "Line 2, character 4" in error and "0xe9" in error
    from madx.cli import using

    monkeypatch.setattr(using, "sys", SimpleNamespace(stdin=None))
    assert "standard input is closed" in failed(run("predict", "--stack", "swa + ner@1"))


def test_explain_names_what_acts_and_measures_it(here):
    plan = run("explain", "--stack", "swa + ner@1").stdout
    assert plan.startswith("swa + ner@1   on base") and "swa: bottleneck" in plan and "then  ner@1: bottleneck" in plan
    assert "measured" not in plan and "every module named acts" in plan
    measured = run("explain", "--stack", "swa + ner@1", "--text", "Anna lives in city").stdout
    assert "changes" in measured and "measured on one forward pass" in measured
    assert "add --base" in failed(run("explain", "--stack", "base"))
    assert run("explain", "--stack", "base", "--base", "base").exit_code == 0


def test_modules_list_show_verify_remove(here, tmp_path):
    copy = tmp_path / "store"
    subprocess.run(["cp", "-r", str(here / "modules"), str(copy)], check=True)
    listed = run("modules", "list", "--store", copy).stdout
    assert all(word in listed for word in ("eng", "swa", "ner@1", "task (ner)", "bottleneck, invertible", "perplexity"))
    shown = yaml.safe_load(run("modules", "show", "swa", "--store", copy).stdout)
    assert (
        shown["name"] == "swa"
        and shown["components"]["bottleneck"]["reduction_factor"] == 2.0
        and shown["training"]["steps"] == 8
    )
    assert "4 modules whole" in run("modules", "verify", "--store", copy).stdout
    assert run("modules", "remove", "swa", "--store", copy, input="n\n").exit_code == 1 and (copy / "swa").is_dir()
    assert run("modules", "remove", "swa", "--store", copy, "--yes").exit_code == 0 and not (copy / "swa").exists()
    weights = copy / "eng" / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    assert "eng: " in failed(run("modules", "verify", "eng", "--store", copy))
    assert "3 modules" not in failed(run("modules", "verify", "--store", copy))
    weights.write_bytes(data[:-9])
    assert "damaged" in run("modules", "list", "--store", copy).stdout
    assert "No modules in" in run("modules", "list", "--store", tmp_path / "none").stdout


# ---- faults ----------------------------------------------------------------------------------------------------------

LANGUAGE = ["train-language", "--base", "base", "--language", "swa", "--corpus", "swa.txt", "--store", "fresh"]
FAULTS = {
    "missing settings, all at once": (["train-language"], ["base", "language", "corpus"]),
    "unknown key": ([*LANGUAGE, "--set", "batchsize=3"], ["batchsize", "batch_size"]),
    "several faults": (
        [*LANGUAGE, "--set", "batch_size=0", "--set", "train.clip=1"],
        ["batch_size", "train.clip", "clip_norm"],
    ),
    "no config file": (["train-task", "none.yaml"], ["none.yaml"]),
    "no corpus file": ([*LANGUAGE, "--corpus", "none.txt"], ["none.txt"]),
    "no base": ([*LANGUAGE, "--base", "./none"], ["./none", "config.json"]),
    "unknown preset": ([*LANGUAGE, "--components", "mdax"], ["mdax", "did you mean 'madx'"]),
    "module is there already": ([*LANGUAGE, "--store", "modules"], ["swa", "already"]),
    "unknown module": (["predict", "--stack", "swaa + ner@1", "x"], ["swaa", "did you mean 'swa'"]),
    "unreadable stack": (["explain", "--stack", "swa + + ner@1"], ["swa + + ner@1"]),
    "no task module": (["predict", "--stack", "swa", "x"], ["no task module"]),
    "wrong base": (["predict", "--stack", "swa + ner@1", "--base", "other", "x"], ["was made for the base", "other"]),
    "target without path": (["evaluate", "--target", "swa"], ["--target 'swa'", "LANGUAGE=PATH"]),
    "target twice": (
        ["evaluate", "--target", "swa=a", "--target", "eng=c", "--target", "swa=b"],
        ["--target 'swa=a', --target 'swa=b'", "keep one"],
    ),
    "training data twice": (
        ["train-task", "--base", "base", "--language", "eng", "--data", "a", "--data", "b", "--dev", "c"],
        ["--data is given 2 times", "a, b"],
    ),
    "task below language": (["predict", "--stack", "ner@1 + swa", "x"], ["from left to right", "write 'swa + ner@1'"]),
    "task below language, explained": (["explain", "--stack", "ner@1 + swa"], ["write 'swa + ner@1'"]),
    "no target": (["evaluate"], ["targets"]),
    "wrong seeds": (["train-task", "--seeds", "1;2"], ["--seeds '1;2'", "1,2,3"]),
    "unknown module to show": (["modules", "show", "sw"], ["sw", "swa"]),
    "unknown module to remove": (["modules", "remove", "sw", "--yes"], ["sw", "swa"]),
    "unknown module type": (["modules", "types", "bottelneck"], ["did you mean 'bottleneck'"]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_message_and_code_1(case, here):
    words, wanted = FAULTS[case]
    said = failed(run(*words))
    assert said.startswith("Error: ")
    for text in wanted:
        assert text in said, said


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(here):
    words = [
        *"train-language --base base --language swa --corpus swa.txt --store stopped --steps 1000000".split(),
        *SMALL,
        *"--set cache=cache --set run=stopped-run --set train.evaluate_every=100000".split(),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(
        [sys.executable, "-m", "madx", *words, "--set", "train.checkpoint_every=1"],
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    checkpoint = here / "stopped-run" / "checkpoint.safetensors"
    try:
        for _ in range(3000):
            if checkpoint.exists() or running.poll() is not None:
                break
            time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=300)
    finally:
        running.kill()
    assert running.returncode == 130, said
    assert (
        re.search(r"Stopped at step \d+ of 1000000; the same command goes on from there", said)
        and "Traceback" not in said
    )
    assert checkpoint.exists() and not (here / "stopped").exists()


# ---- lines of mixed languages ----------------------------------------------------------------------------------------


MIXED = (
    "swa\tthe Juma lives in city .\n"
    + '{"text": "Anna is in city .", "language": "eng"}\n'
    + "\nbare\tthe Juma lives in city .\nswa\tthe market\n"
)


def unscored(record):
    """A record of JSON without its scores, which rounding moves when other lines are in the batch."""
    entities = [{k: v for k, v in entity.items() if k != "score"} for entity in record["entities"]]
    return {k: v for k, v in record.items() if k != "scores"} | {"entities": entities}


def test_predict_takes_lines_of_mixed_languages(here):
    """Each line is tagged as by the stack of its own language."""
    languages = ["--language", "swa", "--language", "eng", "--language", "bare=base"]
    done = run("predict", "--stack", "ner@1", *languages, "--format", "json", input=MIXED)
    assert done.exit_code == 0 and done.stderr == "", (done.output, done.exception)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r.get("language") for r in records] == ["swa", "eng", None, "bare", "swa"] and records[2]["tokens"] == []
    for record in filter(lambda r: r["text"], records):
        below = {"bare": ""}.get(record["language"], f"{record['language']} + ")
        alone = run("predict", "--stack", f"{below}ner@1", "--format", "json", record["text"])
        assert unscored(json.loads(alone.stdout)) == {k: v for k, v in unscored(record).items() if k != "language"}
    route = ["--stack", "route(swa + ner@1, eng + ner@1)"]  # the branches' languages are those of their modules
    shown = run("predict", *route, "eng\tAnna is in city .", "swa\tthe market")
    assert (
        shown.exit_code == 0
        and [line for line in shown.stdout.splitlines() if "  " not in line[:2]][0] == "eng  Anna is in city ."
    )
    conll = run("predict", *route, "--format", "conll", "eng\tAnna is")
    assert [line.split("\t")[0] for line in conll.stdout.splitlines()] == ["Anna", "is", ""]


ROUTED = ["predict", "--stack", "route(swa + ner@1, eng + ner@1)"]
MIXED_FAULTS = {
    "no language": ([*ROUTED, "the market"], ["Line 1 does not say its language: 'the market'", "LANGUAGE<tab>TEXT"]),
    "second line": ([*ROUTED, "swa\tthe market", "x"], ["Line 2 does not say"]),
    "unknown language": ([*ROUTED, "sw\tthe market"], ["Line 1 is in 'sw', which has no branch; did you mean 'swa'"]),
    "JSON without text": ([*ROUTED, '{"language": "swa"}'], ["Line 1 does not say"]),
    "JSON of other types": ([*ROUTED, '{"language": 3, "text": "a"}'], ["Line 1 does not say"]),
    "JSON cut off": ([*ROUTED, '{"language": "swa'], ["Line 1 does not say"]),
    "a branch without language": (
        ["predict", "--stack", "route(swa + ner@1, ner@1)", "x"],
        ["Branch 1 of", "(none)", "eng=base"],
    ),
    "a branch of two": (["predict", "--stack", "route(average(swa, eng) + ner@1)", "x"], ["Branch 0 of", "eng, swa"]),
    "a language twice": (["predict", "--stack", "route(swa + ner@1, swa + ner@2)", "x"], ["several branches for swa"]),
    "no task in a branch": (["predict", "--stack", "route(swa + ner@1, eng)", "x"], ["'eng' has no task module"]),
    "a route and languages": ([*ROUTED, "--language", "swa", "x"], ["says itself what each language takes"]),
    "a language given twice": (
        ["predict", "--stack", "ner@1", "--language", "swa", "--language", "swa", "x"],
        ["each language once"],
    ),
    "an empty language": (["predict", "--stack", "ner@1", "--language", "=swa", "x"], ["--language '=swa'"]),
    "an unknown module below": (["predict", "--stack", "ner@1", "--language", "sw", "sw\tx"], ["sw", "swa"]),
    "a module twice": (["predict", "--stack", "swa + ner@1", "--language", "swa", "swa\tx"], ["'swa' twice"]),
    "a route inside": (["predict", "--stack", "route(swa) + ner@1", "x"], ["a route is outermost", "'+ ner@1'"]),
    "an export of a route": (
        ["export", "--stack", "route(swa + ner@1)", "out"],
        ["cannot be written as a plain checkpoint"],
    ),
}


@pytest.mark.parametrize("case", MIXED_FAULTS)
def test_a_fault_in_mixed_lines_is_one_message(case, here):
    words, wanted = MIXED_FAULTS[case]
    said = " ".join(failed(run(*words)).split())
    assert said.startswith("Error: ") and all(text in said for text in wanted), said


def test_explain_shows_a_route(here):
    shown = run("explain", "--stack", "route(swa + ner@1, eng + ner@1)", "--text", "Anna lives in city").stdout
    assert (
        "branch 0: swa + ner@1" in shown and "branch 1: eng + ner@1" in shown and "at once for all rows: ner@1" in shown
    )
    assert "every module named acts (measured on one forward pass)" in shown
