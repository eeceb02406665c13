"""The recipes run end to end, as their docstrings say, on a tiny base, and make what the commands make."""

import ast
import json
import runpy
import sys
from pathlib import Path

import pytest
from cli_tools import ROOT, run
from tiny_files import fill

from madx.jobs import Predictor
from madx.jobs.common import weights_of
from madx.store import Store

pytestmark = pytest.mark.slow  # every recipe is run

RECIPES = {path.stem: path for path in sorted((ROOT / "pipelines").glob("*.py")) if not path.stem.startswith("make_")}
WITH_CONFIG = ("train_language", "train_task", "zero_shot")
LANGUAGE = {"base": "base", "block_size": "16", "batch_size": "4", "steps": "4", "cache": "cache"}
LANGUAGE |= {"held_out_blocks": "4", "train.evaluate_every": "2", "train.learning_rate": "0.01"}
TASK = {"base": "base", "language": "eng", "data": "train.conll", "dev": "dev.conll", "epochs": "2", "seeds": "[1,2]"}


@pytest.fixture
def recipe(tmp_path, monkeypatch, capsys):
    """Runs a recipe in this process, in a folder of tiny files; gives what it printed."""
    monkeypatch.chdir(fill(tmp_path))
    monkeypatch.setenv("MADX_CACHE", str(tmp_path / "cache"))

    def run_recipe(name: str, /, *words: str, **settings: str) -> str:
        words = [str(RECIPES[name]), *words, *(f"{key}={value}" for key, value in settings.items())]
        monkeypatch.setattr(sys, "argv", words)
        runpy.run_path(words[0], run_name="__main__")
        return capsys.readouterr().out

    return run_recipe


def config(name: str) -> str:
    return str(ROOT / "configs" / f"{name}.yaml")


def command(name: str, config_name: str, /, **settings: str):
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = run(name, config(config_name), *words)
    assert done.exit_code == 0, (done.output, done.exception)


def cells(folder: str) -> list[dict]:
    return json.loads(Path(folder, "matrix.json").read_text())["cells"]


def test_each_recipe_makes_what_the_command_makes(recipe):
    store = Store("modules")
    for language in ("eng", "swa"):
        job = LANGUAGE | {"language": language, "corpus": f"{language}.txt"}
        assert "held-out pseudo-perplexity" in recipe("train_language", config("train_language_small"), **job)
    command("train-language", "train_language_small", **job, name="swa-command")
    assert weights_of(store, "swa") == weights_of(store, "swa-command")
    said = recipe("train_task", config("train_task"), **TASK)
    assert "ner@1: on dev.conll: f1" in said and "ner@2" in said
    command("train-task", "train_task", **TASK, name="command")
    assert [weights_of(store, f"ner@{s}") for s in (1, 2)] == [weights_of(store, f"command@{s}") for s in (1, 2)]
    targets = {"targets.swa": "swa-test.conll", "targets.eng": "eng-test.conll"}
    assert "matrix.md" in recipe("zero_shot", config("evaluate"), **targets, run="recipe")
    command("evaluate", "evaluate", **targets, run="command")
    ours, theirs = (
        {(c["target"], c["control"], c["seed"]): c["scores"] for c in cells(f)} for f in ("recipe", "command")
    )
    assert ours == theirs and len(ours) == 2 * 7


def test_sparse_deltas_go_through_the_same_recipes_and_leave_for_transformers(recipe):
    for language in ("eng", "swa"):
        job = LANGUAGE | {"language": language, "corpus": f"{language}.txt"}
        recipe("train_language", config("lt_sft_language"), **job)
    task = TASK | {"seeds": "[1]", "train.learning_rate": "0.01"}
    recipe("train_task", config("lt_sft_task"), **task)
    recipe("train_task", config("train_task"), **task, name="adapter")
    for name in ("ner", "adapter"):
        recipe("zero_shot", config("evaluate"), **{"targets.swa": "swa-test.conll"}, run=name, task_module=name)
        assert {c["composition"] for c in cells(name)} == {name, f"eng + {name}", f"swa + {name}"}
        assert all(c["explanation"]["inactive"] == [] for c in cells(name)), "every module of every composition acts"
    history = Store("modules").show("ner").info.training["history"]
    assert {row["phase"] for row in history} == {"full 1", "sparse 1"}
    done = run("export", "--stack", "swa + ner", "plain")
    assert done.exit_code == 0 and Path("plain/model.safetensors").exists(), done.output
    assert len(next(iter(Predictor("swa + ner", store="modules")(["Juma works in the city"]))).tags) == 5


def test_the_recipes_of_many_jobs_take_the_arguments_that_they_document(recipe):
    data = ["--base", "base", "--train", "train.conll", "--dev", "dev.conll", "--seeds", "1"]
    words = [*data, "--source", "eng", "--text", "eng=eng.txt", "--text", "swa=swa.txt", "--test", "swa=swa-test.conll"]
    words += ["--steps", "2", "--epochs", "1"]
    said = recipe("transfer_matrix", *words)
    assert "swa: held-out pseudo-perplexity" in said and {c["control"] for c in cells("results")} > {"none", "target"}
    assert "perplexity" not in recipe("transfer_matrix", *words), "what is stored is used as it is"
    words = [
        *data,
        "--language",
        "eng",
        "--components",
        "head_only",
        "pfeiffer",
        "--epochs",
        "1",
        "--rate",
        "pfeiffer=1e-2",
    ]
    said = recipe("compare_module_types", *words)
    assert "head_only" in said and "pfeiffer" in said
    rates = {n: Store("modules").show(f"ner-{n}").info.training["settings"]["train"] for n in ("head_only", "pfeiffer")}
    assert [rates[n]["learning_rate"] for n in rates] == [1e-4, 1e-2]


@pytest.mark.parametrize("name", WITH_CONFIG)
def test_a_fault_is_text_and_code_1(recipe, name):
    with pytest.raises(SystemExit, match="Error: There is no settings file .*none.yaml"):
        recipe(name, "none.yaml", "train.steps=1")


@pytest.mark.parametrize(
    ("name", "settings", "wanted"),
    [
        ("train_task", {"cycle": "[swa]"}, "`madx train-task` takes several"),
        ("zero_shot", {"proxies.use": "[nearest]", "targets.swa": "x"}, "`madx evaluate` has proxies"),
        ("zero_shot", {"targets.swa": "x", "task_module": "nerr"}, "No module 'nerr'"),
    ],
)
def test_settings_that_a_recipe_leaves_to_the_command_are_refused(recipe, name, settings, wanted):
    with pytest.raises(SystemExit, match=wanted):
        recipe(
            name,
            config({"zero_shot": "evaluate"}.get(name, name)),
            **(TASK if name == "train_task" else {}),
            **settings,
        )


def test_a_pair_that_is_none_is_refused(recipe):
    with pytest.raises(SystemExit, match="--test 'swa'"):
        words = ["--base", "b", "--source", "eng", "--text", "eng=x", "--train", "x", "--dev", "x", "--test", "swa"]
        recipe("transfer_matrix", *words)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_reads_top_to_bottom(name):
    text = RECIPES[name].read_text()
    functions = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert functions == ["main"] and len(text.splitlines()) <= 150
    assert f"python pipelines/{name}.py " in text.split('"""')[1]
    steps = [text.index(f"# {word}") for word in ("Settings", "Build", "Train" if "train" in name else "Build")]
    assert steps == sorted(steps)
