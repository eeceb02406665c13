"""Several processes take the same steps as one: they share each global batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_runs as runs
from safetensors.torch import load_file

pytestmark = pytest.mark.slow  # every training runs in several processes

JOBS = [
    ["mlm", {"steps": 6, "learning_rate": 1e-3, "task": {"batch_size": 7}}],  # 4 rows for one process, 3 for the other
    ["ner", {"steps": 8, "learning_rate": 1e-3, "task": {"batch_size": 4}}],  # the last batch of an epoch has one row
    [
        "ner",
        {"steps": 4, "learning_rate": 1e-3, "task": {"batch_size": None, "tokens_per_batch": 40, "micro_batch": 2}},
    ],
]


def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def close(a, b):
    assert a.keys() == b.keys()
    worst = max((a[k] - b[k]).abs().max().item() for k in a)
    assert worst < 1e-5, worst


def copies(jobs):
    return json.loads(json.dumps(jobs))


def one_process(kind, options):
    made, _ = runs.train(kind, **copies(options))
    return made.module(kind).tensors()


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_end_with_the_weights_of_one(spawn, tmp_path, count):
    out, at = str(tmp_path / "w"), port()
    processes = [spawn(runs.together, rank, count, at, out, copies(JOBS)) for rank in range(count)]
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0] * count
    assert json.loads(Path(f"{out}-0.json").read_text()) == [count, "gloo", "cpu"]
    for number, (kind, options) in enumerate(JOBS):
        expected = one_process(kind, options)
        for rank in range(count):
            close(load_file(f"{out}-{number}-{rank}.safetensors"), expected)


def test_processes_that_were_seeded_differently_agree_all_the_same(spawn, tmp_path):
    out, at = str(tmp_path / "w"), port()
    job = ["mlm", {"steps": 3, "own_seed": True}]
    processes = [spawn(runs.together, rank, 2, at, out, copies([job])) for rank in range(2)]
    for process in processes:
        process.join()
    first, second = (load_file(f"{out}-0-{rank}.safetensors") for rank in range(2))
    close(first, second)
    made = runs.engine("mlm", seed=100)
    runs.train("mlm", made=made, steps=3)
    close(first, made.module("mlm").tensors())  # those of the first process


def test_a_signal_to_one_stops_all_after_the_same_step_and_they_go_on_to_the_same_end(spawn, tmp_path):
    """With dropout: each process draws its own, and draws the same after the stop."""
    options = {"steps": 10, "base_dropout": True, "evaluate_every": 10, "dropout": 0.2, "folder": str(tmp_path / "run")}

    def go(name, expected=0, **more):
        at, out = port(), str(tmp_path / name)
        processes = [spawn(runs.together, rank, 2, at, out, [["mlm", options | more]]) for rank in range(2)]
        for process in processes:
            process.join()
        assert [p.exitcode for p in processes] == [expected] * 2
        return out

    calm = go("calm", folder=str(tmp_path / "calm-run"))
    stopped = go("stopped", stop_at=4)
    words = [Path(f"{stopped}-0-{rank}.txt").read_text() for rank in range(2)]
    assert all("step 6 of 10" in each for each in words)  # asked in 4, told to all in 5
    done = go("done")
    for rank in range(2):
        first, second = (load_file(f"{name}-0-{rank}.safetensors") for name in (calm, done))
        assert all((first[k] == second[k]).all() for k in first)


def test_torchrun(tmp_path):
    """The real launcher, once: what it sets up is what the tests above set by hand."""
    out = str(tmp_path / "w")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, runs.__file__, out, json.dumps(JOBS[:1])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(Path(f"{out}-1.json").read_text()) == [2, "gloo", "cpu"]
    expected = one_process(*JOBS[0])
    for rank in range(2):
        close(load_file(f"{out}-0-{rank}.safetensors"), expected)


@pytest.mark.parametrize("selection", ["magnitude", "fisher", "drop_and_grow"])
def test_all_processes_hold_the_same_entries(spawn, tmp_path, selection):
    """Heads from seeds of their own: what one process would select by itself is not what the other would."""
    out, at = str(tmp_path / "w"), port()
    sparse = {"selection": selection, "samples": 4, "accumulate": 1, "reselect_every": 3}
    job = ["sft", {"steps": 5, "own_seed": True, "learning_rate": 1e-3, "sparse": sparse}]
    processes = [spawn(runs.together, rank, 2, at, out, copies([job])) for rank in range(2)]
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [0, 0]
    first, second = (load_file(f"{out}-0-{rank}.safetensors") for rank in range(2))
    assert any(len(tensor) == 200 for tensor in first.values())
    assert first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)


def test_processes_that_see_different_folders_are_told(spawn, tmp_path):
    """Two machines without a common disk, after a stop: one would go on from step 4, the other begin anew."""
    out, options = str(tmp_path / "w"), {"steps": 4, "folder": str(tmp_path / "run"), "own_folder": True}
    for expected in (0, 1):
        at = port()
        processes = [spawn(runs.together, rank, 2, at, out, [["mlm", dict(options)]]) for rank in range(2)]
        for process in processes:
            process.join()
        assert [p.exitcode for p in processes] == [expected] * 2
    words = [Path(f"{out}-0-{rank}.txt").read_text() for rank in range(2)]
    assert all(
        "different states" in text and "steps done: 4, 0" in text and "disk that all machines share" in text
        for text in words
    )


@pytest.mark.parametrize("kind", ["mlm", "sft"])
def test_a_checkpoint_that_the_first_cannot_write_is_an_error_in_all(spawn, tmp_path, kind):
    """The others would wait for the first one, which has gone on to something else."""
    (tmp_path / "file").touch()
    out, at = str(tmp_path / "w"), port()
    options = {"steps": 2, "folder": str(tmp_path / "file" / "run"), "sparse": {"selection": "random"}}
    processes = [spawn(runs.together, rank, 2, at, out, [[kind, options]]) for rank in range(2)]
    for process in processes:
        process.join()
    assert [p.exitcode for p in processes] == [1, 1]
    words = [Path(f"{out}-0-{rank}.txt").read_text() for rank in range(2)]
    assert "file/run" in words[0] and "first process" in words[1]
