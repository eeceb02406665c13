"""The benchmarks' own arithmetic; what they measure is measured by running them."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def files(monkeypatch):
    """Imports a file of the folder as the scripts do."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield __import__
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "").parent == FOLDER:
            del sys.modules[name]


def test_every_file_but_the_helpers_is_a_measurement_with_the_common_options(files):
    names = files("run").measurements()
    assert {"train", "infer", "evaluate", "growth", "gpu", "sparse"} <= set(names)
    assert not {"run", "common", "peer"} & set(names)
    for name in names:
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        assert '__name__ == "__main__"' in text
        assert "arguments(__doc__" in text or '"--out"' in text and '"--threads"' in text, name


def test_ratios_are_those_of_rounds_that_stood_beside_each_other(files, monkeypatch):
    common = files("common")
    ours, peer = [(2.0, 1.0), (9.0, 1.0), (2.0, 2.0)], [(6.0, 3.0), (36.0, 5.0), (4.0, 2.0)]
    assert common.ratio(ours, peer) == {"median": 3.0, "least": 1.0, "most": 5.0} and common.seconds(ours) == 1.0
    monkeypatch.setattr(common, "TIMED", common.CLOCK)
    assert common.ratio(ours, peer) == {"median": 3.0, "least": 2.0, "most": 4.0} and common.seconds(ours) == 2.0


def test_the_table_holds_what_every_measurement_writes(files):
    sparse = {
        "apply": {"on": {"median_ms": 71.5}, "off": {"median_ms": 48.0}},
        "store": {"half": {"file_mb": 23.01, "load_median_ms": 70.4}},
        "train": {"sparse_share": 0.4, "spiel_share": 0.47, "full_share": 0.78},
    }
    rows = files("sparse").rows_of(sparse)
    speed = {
        "measure": "x",
        "way": "fp32",
        "unit": "tokens/s",
        "ours": 2,
        "peer": 1,
        "ratio": {"median": 2.0, "least": 1.9, "most": 2.1},
    }
    lines = files("run").table({"sparse": {"rows": rows}, "train": {"rows": [speed]}, "gpu": {"exit": 0}}).splitlines()
    assert len(lines) == 2 + 7 + 1 and all(line.count("|") == 9 for line in lines)
    assert "put on | median | ms | 71.5" in lines[2] and "2.0 (1.9–2.1)" in lines[-1]
    assert files("sparse").rows_of({}) == []


def test_several_threads_are_timed_by_the_clock(files, monkeypatch):
    common = files("common")
    for threads, timed in (("1", common.PROCESSOR), ("2", common.CLOCK)):
        monkeypatch.setattr("sys.argv", ["x", "--threads", threads])
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setattr("torch.set_num_threads", lambda n: None)
        common.arguments("text")
        assert common.TIMED == timed


def test_ways_are_timed_turn_about_and_the_first_round_does_not_count(files):
    order = []
    times = files("common").turn_about({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == list("ababab") and [len(t) for t in times.values()] == [2, 2]


def test_losses_that_differ_stop_the_measurement(files):
    compare = files("train").compare
    compare(10.0, 10.0001, "x")
    with pytest.raises(SystemExit, match="losses differ"):
        compare(10.0, 10.01, "x")


def test_a_task_on_ready_rows_gives_every_row_once_an_epoch(files):
    rows = files("common").sentence_rows(20, "small")
    task = files("train").ner_task(rows, tokens_per_batch=200)
    found = [batch for step in range(task.steps(1)) for batch in task.batches(step)]
    assert len(found) > 1 and sum(len(batch["input_ids"]) for batch in found) == 20


def test_memory_at_its_peak_is_what_was_taken():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("Linux alone tells the peak")
    code = """
import numpy as np
from common import Memory
with Memory() as used:
    np.ones(40_000_000, dtype=np.uint8)
print(used.added)
"""  # in a process of its own: one that has run other tests may hold that much already
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(0.04, abs=0.01)


def test_the_table_and_the_plot(files, tmp_path):
    run = files("run")
    rows = [
        {
            "measure": "m",
            "way": "fp32",
            "unit": "s",
            "ours": 2,
            "peer": 1,
            "ratio": {"median": 2.0, "least": 1.5, "most": 2.5},
            "limit": 4,
            "share": 0.5,
        },
        {"measure": "other", "modules": 1},
    ]
    assert (
        run.table({"x": {"rows": rows}, "y": {"free": 1}}).splitlines()[2]
        == "| m | fp32 | s | 2 | 1 | 2.0 (1.5–2.5) | 4 | 0.5 |"
    )
    run.plot({"x": {"rows": rows}}, tmp_path / "a.png")
    run.plot({"y": {}}, tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 1000 and not (tmp_path / "b.png").exists()


def test_a_measurement_that_fails_is_told(files, tmp_path, monkeypatch):
    run = files("run")
    (tmp_path / "bad.py").write_text("raise SystemExit(3)")
    monkeypatch.setattr(run, "HERE", tmp_path)
    assert run.measure("bad", Namespace(out=str(tmp_path), threads=1))["exit"] == 3


def test_without_a_gpu_nothing_is_measured_there(files, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert files("gpu").measure(Namespace(shape="small")) == []
    assert "nothing measured" in capsys.readouterr().out
