"""`madx inspect`, as a job and as a command, on a tiny base."""

import json

import pytest
from cli_tools import failed, run
from tiny_files import fill

from madx.jobs import Inspect, inspect


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = fill(tmp_path_factory.mktemp("inspect"))
    (folder / "base" / "model.safetensors").unlink()  # the tokenizer alone is read
    sentence = (folder / "swa-test.conll").read_text().split("\n\n")[0]
    text = " ".join(line.split("\t")[0] for line in sentence.splitlines())
    (folder / "leaky.txt").write_text((folder / "swa.txt").read_text() + f"Then {text.upper()} And so on\n")
    (folder / "date.conll").write_text("Anna\tB-DATE\nof\tO\nof\tI-PER\n")
    return folder


def job(folder, **changes):
    given = {"corpus": "leaky.txt", "data": {"train": "train.conll", "swa": "swa-test.conll"}} | changes
    data = {name: str(folder / path) for name, path in given["data"].items()}
    return Inspect(
        base=str(folder / "base"), **given | {"data": data, "corpus": given["corpus"] and str(folder / given["corpus"])}
    )


def test_everything_is_found(folder):
    found = inspect(job(folder, block_size=16, batch_size=4))
    assert found.corpus.lines == 301 and found.recipe.steps == 50_000
    assert found.recipe.blocks == (found.corpus.tokens + 301) // 14 and found.recipe.passes == pytest.approx(
        50_000 * 4 / found.recipe.blocks
    )
    assert {name: r.sentences for name, r in found.data.items()} == {"train": 24, "swa": 24}
    overlaps = {(o.data, o.source): o for o in found.overlaps}
    assert overlaps["swa", "the corpus"].found >= 1 and overlaps["swa", "the corpus"].lines[0] == 1
    assert any("swa: 1 of" in w and "the corpus" in w and "lines 1" in w for w in found.warnings)
    assert any("passes" in w for w in found.warnings) and any("tiny" in w for w in found.warnings)
    record = json.loads(found.to_json())
    assert record["format"] == "madx inspection" and record["data"]["swa"]["labels"] == found.data["swa"].labels
    assert len(record["files"]) == 3 and all(record["files"].values())


def test_labels_that_the_training_set_lacks_and_invalid_tags(folder):
    found = inspect(job(folder, corpus=None, data={"train": "train.conll", "date": "date.conll"}))
    assert found.corpus is None and found.recipe is None
    assert any(
        "date: labels that train does not have: DATE" in w and "columns.ignore=[DATE]" in w for w in found.warnings
    )
    assert any("1 of 1 sentences have tags that are not valid iob2" in w for w in found.warnings)


def test_the_command_prints_tables_or_json(folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = "inspect --base base --corpus leaky.txt --data train=train.conll --data swa=swa-test.conll".split()
    done = run(*words, "--json", "out/found.json")
    assert done.exit_code == 0, (done.output, done.exception)
    for text in (
        "pieces per word",
        "duplicate lines",
        "MAD-X recipe",
        "swa",
        "PER",
        "found in",
        "the corpus",
        "! corpus",
        "written: out/found.json",
    ):
        assert text in done.stdout, text
    printed = run(*words, "--json", "-")
    assert json.loads(printed.stdout) == json.loads((folder / "out" / "found.json").read_text())
    alone = run("inspect", "--base", "base", "--data", "train=train.conll")
    assert alone.exit_code == 0 and "MAD-X recipe" not in alone.stdout and "found in" not in alone.stdout


def test_brackets_in_texts_are_no_markup(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "odd.txt").write_text("the [/red] city [bold] of ]\n" * 3)
    (folder / "odd.conll").write_text("[/red]\tB-[/x]\n")
    done = run("inspect", "--base", "base", "--corpus", "odd.txt", "--data", "[/a]=odd.conll", "--json", "[/o].json")
    assert done.exit_code == 0, (done.output, done.exception)
    assert all(text in done.stdout for text in ("[/x]", "[/a]", "'['", "written: [/o].json"))


FAULTS = {
    "nothing": (["--base", "base"], ["nothing to inspect"]),
    "no base": (["--corpus", "swa.txt"], ["base: missing"]),
    "base is not there": (["--base", "./none", "--corpus", "swa.txt"], ["Cannot load the base './none'"]),
    "no corpus": (["--base", "base", "--corpus", "swaa.txt"], ["swaa.txt", "did you mean"]),
    "no file": (["--base", "base", "--data", "x=swa-tst.conll"], ["swa-tst.conll", "did you mean"]),
    "no name": (["--base", "base", "--data", "swa-test.conll"], ["NAME=PATH is needed"]),
    "task": (["--base", "base", "--task", "nre", "--data", "x=train.conll"], ["did you mean 'ner'"]),
    "output": (["--base", "base", "--data", "x=train.conll", "--json", "base"], ["base: cannot be written"]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_one_message(case, folder, monkeypatch):
    monkeypatch.chdir(folder)
    words, wanted = FAULTS[case]
    said = failed(run("inspect", *words))
    for text in wanted:
        assert text in said, said
