"""The pipeline files run end to end, as their docstrings say, on a tiny base; nothing imports them."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_files import fill

from madx.store import Store

pytestmark = pytest.mark.slow  # every pipeline runs in a process of its own

ROOT = Path(__file__).parents[1]
PIPELINES = ("train_language", "train_task", "zero_shot", "transfer_matrix", "compare_module_types")
SMALL = [
    "block_size=16",
    "batch_size=4",
    "steps=4",
    "cache=cache",
    "held_out_blocks=4",
    "train.evaluate_every=2",
    "train.learning_rate=0.01",
]


def pipeline(name: str, config: str, *overrides: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    words = [sys.executable, str(ROOT / "pipelines" / f"{name}.py"), str(ROOT / "configs" / config), *overrides]
    return subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def in_process(name: str, config: str, *overrides: str, monkeypatch, capsys) -> str:
    """The same without a new process, which would load torch anew; gives what the pipeline printed."""
    path = ROOT / "pipelines" / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(path), str(ROOT / "configs" / config), *overrides])
    runpy.run_path(str(path), run_name="__main__")
    return capsys.readouterr().out


def test_the_three_pipelines_end_to_end(tmp_path, monkeypatch, capsys):
    folder = fill(tmp_path)
    small = ("train_language_small.yaml", "base=base", *SMALL)
    figures = r"held-out pseudo-perplexity: [\d.,]+ without it, [\d.,]+ with it"
    done = pipeline("train_language", *small, "language=eng", "corpus=eng.txt", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert re.search(figures, done.stdout)
    monkeypatch.chdir(folder)
    here = {"monkeypatch": monkeypatch, "capsys": capsys}
    assert re.search(figures, in_process("train_language", *small, "language=swa", "corpus=swa.txt", **here))
    task = ("base=base", "language=eng", "data=train.conll", "dev=dev.conll", "epochs=2", "seeds=[1,2]")
    said = in_process("train_task", "train_task.yaml", *task, **here)
    assert re.search(r"on dev.conll: f1 [\d.]+ ± [\d.]+ over 2 seeds", said)
    assert Store(folder / "modules").names() == ["eng", "ner@1", "ner@2", "swa"]
    said = in_process("zero_shot", "evaluate.yaml", "targets.swa=swa-test.conll", "run=results", **here)
    assert "swa" in said and "matrix.md" in said
    cells = json.loads((folder / "results" / "matrix.json").read_text())["cells"]
    assert {c["control"] for c in cells} == {"none", "source", "target", "mean"} and {c["seed"] for c in cells} == {
        1,
        2,
    }


def test_sparse_differences_go_through_the_same_pipelines_and_leave_for_transformers(tmp_path, monkeypatch, capsys):
    """LT-SFT's recipes, swapped zero-shot, mixed with an adapter, exported as a plain checkpoint."""
    from typer.testing import CliRunner

    from madx.cli import app
    from madx.jobs import Predictor

    folder = fill(tmp_path)
    monkeypatch.chdir(folder)
    here = {"monkeypatch": monkeypatch, "capsys": capsys}
    small = ("base=base", *SMALL)
    for language in ("eng", "swa"):
        said = in_process(
            "train_language", "lt_sft_language.yaml", *small, f"language={language}", f"corpus={language}.txt", **here
        )
        assert "held-out pseudo-perplexity" in said
    task = (
        "base=base",
        "language=eng",
        "data=train.conll",
        "dev=dev.conll",
        "epochs=2",
        "seeds=[1]",
        "train.learning_rate=0.01",
    )
    in_process("train_task", "lt_sft_task.yaml", *task, **here)
    in_process("train_task", "train_task.yaml", *task, "name=adapter", **here)
    for name in ("ner", "adapter"):
        in_process(
            "zero_shot",
            "evaluate.yaml",
            "targets.swa=swa-test.conll",
            f"run=results-{name}",
            f"task_module={name}",
            **here,
        )
        cells = json.loads((folder / f"results-{name}" / "matrix.json").read_text())["cells"]
        assert {c["composition"] for c in cells} == {name, f"eng + {name}", f"swa + {name}"}
        assert all(c["explanation"]["inactive"] == [] for c in cells), "every module of every composition acts"
    info = Store(folder / "modules").show("ner").info
    assert {row["phase"] for row in info.training["history"]} == {"full 1", "sparse 1"}
    done = CliRunner().invoke(app, ["export", "--stack", "swa + ner", "plain"])
    assert done.exit_code == 0, done.output
    predicted = list(Predictor("swa + ner", store="modules")(["Juma works in the city"]))
    assert len(predicted[0].tags) == 5 and (folder / "plain" / "model.safetensors").exists()


@pytest.mark.parametrize("name", PIPELINES)
def test_a_fault_is_text_and_code_1(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        in_process(name, "none.yaml", "train.steps=1", monkeypatch=monkeypatch, capsys=capsys)
    assert str(stop.value).startswith("Error: There is no settings file") and "none.yaml" in str(stop.value)


def test_pipelines_are_short_have_no_classes_and_are_imported_by_nobody():
    for name in PIPELINES:
        text = (ROOT / "pipelines" / f"{name}.py").read_text()
        assert len(text.splitlines()) <= 60 and "class " not in text
        assert f"python pipelines/{name}.py configs/" in text.split('"""')[1]
    for path in (ROOT / "madx").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) pipelines", path.read_text(), re.M), path
