"""`madx modules import | export | formats`: one way there and back for each format, and what is said of wrong use."""

import json

import pytest
import tiny
import tiny_files
from cli_tools import failed, run
from tiny import sparse

import madx
from madx.module import new_module
from madx.store import Store

LABELS = ("O", "B-PER", "I-PER")
FOLDERS = {"adapterhub": "swa", "composable-sft": "sswa"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base and a store with two language modules and two task modules."""
    root = tmp_path_factory.mktemp("foreign")
    base, store = madx.load_base(tiny_files.save_base(root / "base")), Store(root / "modules")
    for module in (
        tiny.wake(new_module("swa", base, language="swa")),
        sparse(base, "sswa", entries=100, language="swa"),
        tiny.wake(new_module("ner", base, role="task", components="pfeiffer", task="ner", labels=LABELS)),
        sparse(base, "sner", entries=100, role="task", task="ner", labels=LABELS),
    ):
        store.save(module)
    return root


@pytest.fixture
def out(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    return tmp_path


def modules(*words):
    return run("modules", *words)


@pytest.mark.parametrize("form", FOLDERS)
def test_there_and_back(out, form):
    done = modules("export", FOLDERS[form], "--to", form, "--out", out / "files")
    assert done.exit_code == 0 and f"wrote '{FOLDERS[form]}' to {out / 'files'}: " in done.stdout, done.output
    words = [
        "import",
        out / "files",
        "--from",
        form,
        *"--name a.b --role language --language swa --store".split(),
        out / "store",
    ]
    done = modules(*words)  # the files name their base, which lies here
    assert done.exit_code == 0, done.output
    assert "as the module 'a.b'" in done.stdout and "ignored" in done.stdout and "stored a.b in" in done.stdout
    assert modules("verify", "--store", out / "store").exit_code == 0
    assert "already holds a module" in failed(modules(*words))
    assert modules(*words, "--overwrite").exit_code == 0


def test_a_stack_there_and_back(out):
    assert modules("export", "swa + ner", "--to", "adapterhub", "--out", out / "files").exit_code == 0
    words = ["import", out / "files", "--from", "adapterhub", "--store", out / "store", "--task", "ner"]
    done = modules(*words, "--role", "swa=language", "--role", "ner=task", "--language", "swa=swa")
    assert done.exit_code == 0 and "composition: swa + ner" in done.stdout, done.output
    assert Store(out / "store").show("ner").info.labels == LABELS
    for wrong, said in (
        (["--role", "language"], "NAME=VALUE is needed for the modules swa, ner"),
        (["--role", "x=language"], "--role x=language"),
        (["--role", "swa=language", "--language", "swa=swa"], "The role of 'ner' is ''"),
        (["--role", "swa=language", "--role", "swa=task"], "named twice"),
        (["--name", "x", "--role", "task"], "leave --name x out"),
    ):
        assert said in failed(modules(*words, *wrong)), wrong


@pytest.mark.parametrize("form", FOLDERS)
def test_a_head_needs_its_task(out, form):
    assert (
        modules("export", {"adapterhub": "ner"}.get(form, "sner"), "--to", form, "--out", out / "files").exit_code == 0
    )
    words = ["import", out / "files", "--from", form, "--name", "x", "--role", "task", "--store", out / "store"]
    assert "with_head=False" in failed(modules(*words))
    assert not (out / "store").exists()
    assert "Unknown task 'nerr'; did you mean 'ner'" in failed(modules(*words, "--task", "nerr"))
    assert "The files name the labels" in failed(modules(*words, "--task", "ner", "--labels", "A,B,C"))
    assert modules(*words, "--task", "ner").exit_code == 0
    assert modules(*words, "--no-head", "--overwrite").exit_code == 0
    assert Store(out / "store").show("x").info.labels == ()


def test_wrong_use_is_said_before_anything_is_written(out):
    assert modules("export", "sswa", "--to", "composable-sft", "--out", out / "files").exit_code == 0
    words = [
        "import",
        out / "files",
        *"--from composable-sft --role language --language swa --store".split(),
        out / "store",
    ]
    assert "give its name, e.g. --name swa" in failed(modules(*words))
    assert "'../x' cannot name a module" in failed(modules(*words, "--name", "../x"))
    assert "'Swahili' is no language code" in failed(modules(*words[:-4], "--language", "Swahili", "--name", "x"))
    assert "Unknown format 'adaptrhub'; did you mean 'adapterhub'" in failed(
        modules(*words, "--name", "x", "--from", "adaptrhub")
    )
    assert "has no adapter_config.json" in failed(modules(*words, "--name", "x", "--from", "adapterhub"))
    assert "does not exist" in failed(modules("import", out / "y", *words[2:], "--name", "x"))
    (out / "files" / "config.json").unlink()
    assert "The files do not say which base" in failed(modules(*words, "--name", "x"))
    assert modules(*words, "--name", "x", "--base", "base").exit_code == 0
    assert "Unknown format" in failed(modules("export", "sswa", "--to", "x", "--out", out / "z"))
    assert "it has 'bottleneck', 'invertible'" in failed(
        modules("export", "swa", "--to", "composable-sft", "--out", out / "z")
    )
    assert "no counterpart" in failed(modules("export", "sswa", "--to", "adapterhub", "--out", out / "z"))
    assert "No module 'nobody'" in failed(modules("export", "nobody", "--to", "adapterhub", "--out", out / "z"))
    assert "is in use" in failed(modules("export", "sswa", "--to", "composable-sft", "--out", out / "files"))
    assert sorted(p.name for p in out.iterdir()) == ["files", "store"]


def test_names_that_the_peer_cannot_have_are_given_another_one(out, place):
    base = madx.load_base("base")
    Store("modules").save(tiny.wake(new_module("to", base, language="ton")), overwrite=True)
    assert "cannot be called 'to' there" in failed(
        modules("export", "to", "--to", "adapterhub", "--out", out / "files")
    )
    assert modules("export", "to", "--to", "adapterhub", "--out", out / "files", "--as", "tongan").exit_code == 0
    assert json.loads((out / "files" / "adapter_config.json").read_text())["name"] == "tongan"
    assert "cannot be called 'x' there" in failed(
        modules("export", "sswa", "--to", "composable-sft", "--out", out / "z", "--as", "x")
    )


def test_formats_are_listed():
    done = modules("formats")
    assert done.exit_code == 0 and all(form in done.stdout for form in FOLDERS) and "pytorch_diff.bin" in done.stdout
