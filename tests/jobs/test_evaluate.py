"""The number format of an evaluation: what it changes, what it leaves, and that every report says so."""

import pytest
import tiny
import tiny_files

from madx.base import load_base
from madx.jobs import Evaluate, evaluate
from madx.module import new_module
from madx.store import Store

LABELS = ("O", "B-PER", "B-LOC")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store with modules of eng and swa, a difference of weights for deu, the task module ner, and a test set."""
    at = tmp_path_factory.mktemp("evaluate")
    base, store = load_base(tiny_files.save_base(at / "base")), Store(at / "modules")
    for seed, language in enumerate(("eng", "swa")):
        store.save(tiny.wake(new_module(language, base, language=language, parts="madx"), seed=seed, std=0.1))
    store.save(new_module("deu", base, language="deu", parts="lt_sft"))
    task = new_module("ner", base, role="task", language="eng", parts="pfeiffer", task="ner", labels=LABELS)
    store.save(tiny.wake(task, seed=1, std=0.2))
    tiny_files.write_conll(at / "test.conll", sentences=30, seed=3)
    return at


def result(folder, **changes):
    given = {"base": str(folder / "base"), "store": str(folder / "modules"), "run": str(folder / "run"), "progress": False,
             "targets": {"swa": str(folder / "test.conll")}, "task_module": "ner"}  # fmt: skip
    return evaluate(Evaluate(**(given | changes)))


def tags(found):
    return [line.split() for line in (found.folder / "predictions" / "swa.target.seed0.conll").read_text().splitlines() if line]


def test_bf16_moves_few_tags_and_every_report_says_so(folder, tmp_path):
    exact, half = result(folder, run=str(tmp_path / "fp32")), result(folder, run=str(tmp_path / "bf16"), precision="bf16")
    assert (exact.matrix.meta.base, half.matrix.meta.base) == (exact.matrix.meta.base, f"{exact.matrix.meta.base} in bfloat16")
    assert "bfloat16" not in exact.matrix.meta.base
    for file in ("report.md", "report.html"):
        assert "in bfloat16" in (half.folder / file).read_text() and "in bfloat16" not in (exact.folder / file).read_text()
    one, other = tags(exact), tags(half)
    same = sum(a == b for a, b in zip(one, other)) / len(one)
    assert len(one) == len(other) > 50 and same > 0.9
    assert all(cell.silent == () for cell in half.matrix.cells)


def test_with_differences_of_weights_the_base_stays_exact(folder, tmp_path):
    found = result(folder, run=str(tmp_path / "run"), precision="bf16", modules={"swa": "deu"})
    assert "bfloat16" not in found.matrix.meta.base
