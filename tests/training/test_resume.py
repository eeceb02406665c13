"""A run may be killed, stopped, or lose its disk at any moment: its checkpoint is whole, and it ends the same."""

import json
import os
import random
import signal
import time

import pytest
import tiny_runs as runs
import torch
from safetensors.torch import load_file, save_file

from madx.errors import TrainingError
from madx.training.checkpoint import VERSION, read_checkpoint, write_checkpoint

STEPS = 40
DROPOUT = {"dropout": 0.2, "base_dropout": True}


def options(folder, **more):
    return {"steps": STEPS, "checkpoint_every": 1, "folder": str(folder)} | DROPOUT | more


def same(a, b):
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


def wait_for(condition, process, seconds=300):
    until = time.monotonic() + seconds
    while not condition() and process.is_alive() and time.monotonic() < until:
        time.sleep(0.002)
    assert time.monotonic() < until, "the run does not get on"


def step_of(folder):
    found = read_checkpoint(folder / "checkpoint.safetensors")
    return found[1]["step"] if found else 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlm", "ner"])
def test_killed_at_random_moments_it_ends_with_the_same_weights(spawn, tmp_path, kind):
    calm = spawn(runs.alone, kind, str(tmp_path / "calm"), options(tmp_path / "calm-run"))
    calm.join()
    assert calm.exitcode == 0
    chance, folder, kills = random.Random(kind), tmp_path / "run", 0
    while step_of(folder) < STEPS - 8 and kills < 8:
        process = spawn(runs.alone, kind, str(tmp_path / "out"), options(folder))
        before = step_of(folder)
        wait_for(lambda start=before: step_of(folder) > start, process)
        time.sleep(chance.uniform(0, 0.08))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        assert before < step_of(folder) <= STEPS
    assert kills >= 3
    last = step_of(folder)
    process = spawn(runs.alone, kind, str(tmp_path / "out"), options(folder))
    process.join()
    assert process.exitcode == 0
    same(load_file(tmp_path / "out"), load_file(tmp_path / "calm"))
    results = [json.loads((tmp_path / name).with_suffix(".json").read_text()) for name in ("out", "calm")]
    assert results[0].pop("resumed_from") == last and results[1].pop("resumed_from") is None
    for result in results:
        del result["seconds"]
    assert results[0] == results[1]  # history, best step and tokens too


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(spawn, tmp_path, number):
    more = {"checkpoint_every": 10_000, "steps": 4000}  # it writes none by itself
    process = spawn(runs.alone, "mlm", str(tmp_path / "out"), options(tmp_path, **more, evaluate_every=1))
    wait_for(lambda: (tmp_path / "out.listens").exists(), process)  # before, it would end as any process does
    os.kill(process.pid, number)
    process.join()
    words = (tmp_path / "out.txt").read_text()
    step = step_of(tmp_path)
    assert 0 < step < 4000 and words.startswith("KeyboardInterrupt")
    assert f"step {step} of 4000" in words and "same command" in words


def test_a_signal_in_the_last_step_is_not_lost(tmp_path):
    """The next seed or phase must not begin; the run itself is whole."""
    whole, _ = runs.train("ner", steps=4)
    with pytest.raises(KeyboardInterrupt, match="step 4 of 4.*same command"):
        runs.train("ner", steps=4, folder=tmp_path, stop_at=3)
    made, result = runs.train("ner", steps=4, folder=tmp_path)
    assert result.resumed_from == 4
    same(made.module("ner").tensors(), whole.module("ner").tensors())


def test_different_settings_refuse_to_go_on_and_name_the_key(tmp_path):
    runs.train("mlm", steps=3, folder=tmp_path, checkpoint_every=1)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    for change, named in (
        ({"learning_rate": 2e-2}, "learning_rate: checkpoint 0.01, now 0.02"),
        ({"steps": 4}, "steps: checkpoint 3, now 4"),
        ({"seed": 5}, "seed: checkpoint 0, now 5"),
        ({"precision": "bf16"}, "precision: checkpoint 'fp32', now 'bf16'"),
    ):
        with pytest.raises(TrainingError, match=f"(?s)other settings:.*{named}.*resume=false"):
            runs.train("mlm", **({"steps": 3, "folder": tmp_path, "checkpoint_every": 1} | change))
    runs.train("mlm", steps=3, folder=tmp_path, checkpoint_every=2)  # how often it saves is no other run
    with pytest.raises(TrainingError, match="other settings"):
        runs.train("ner", steps=3, folder=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_module_of_other_components_refuses_and_stays_as_it_was(tmp_path):
    runs.train("mlm", steps=3, folder=tmp_path)
    from madx.engine import Engine
    from madx.module import new_module

    made = Engine(runs.tiny.base())
    made.attach(new_module("mlm", made.base, components={"bottleneck": {"reduction_factor": 4.0}, "invertible": {}}))
    made.activate("mlm")
    before = {k: v.clone() for k, v in made.module("mlm").tensors().items()}
    with pytest.raises(
        TrainingError, match=r"layer\.0\.ffn\.bottleneck\.down\.weight: checkpoint \[16, 32\], now \[8, 32\]"
    ):
        runs.train("mlm", steps=3, folder=tmp_path, made=made)
    same(before, made.module("mlm").tensors())


def test_resume_can_be_declined(tmp_path):
    from madx.training import TrainSettings, fit

    runs.train("mlm", steps=3, folder=tmp_path)
    made = runs.engine("mlm")
    settings = TrainSettings(progress=False, learning_rate=2e-2)
    result = fit(made, "mlm", runs.masked_lm(), settings, steps=2, seed=0, folder=tmp_path, resume=False)
    assert result.resumed_from is None and step_of(tmp_path) == 2


@pytest.mark.parametrize(
    "damage", ["cut", "cut in the header", "empty", "noise", "other tensors", "later version", "madx 0.1.0", "folder"]
)
def test_a_damaged_checkpoint_is_refused_in_words(tmp_path, damage):
    runs.train("mlm", steps=2, folder=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    raw, tensors = path.read_bytes(), load_file(path)
    if damage in ("later version", "madx 0.1.0"):
        version = 1 if damage == "madx 0.1.0" else VERSION + 1
        save_file(tensors, path, metadata={"state": json.dumps({"version": version})})
    elif damage == "other tensors":
        save_file(tensors, path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(
            {"cut": raw[:-50], "cut in the header": raw[:40], "empty": b"", "noise": os.urandom(500)}[damage]
        )
    why = f"format 1, this madx reads format {VERSION}" if damage == "madx 0.1.0" else ""
    with pytest.raises(TrainingError, match=f"checkpoint.safetensors.*{why}.*resume=false"):
        runs.train("mlm", steps=2, folder=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [1000, 20_000])
def test_a_full_disk_leaves_the_checkpoint_before(spawn, tmp_path, allowed):
    """The limit on a file's size gives the same answer as a full disk, part of the way through."""
    runs.train("mlm", steps=4, folder=tmp_path, evaluate_every=4)
    path = tmp_path / "checkpoint.safetensors"
    tensors, state = read_checkpoint(path)
    write_checkpoint(path, {k: v for k, v in tensors.items() if not k.startswith("best.")}, state | {"step": 2})
    before = path.read_bytes()
    process = spawn(
        runs.alone, "mlm", str(tmp_path / "out"), {"steps": 4, "folder": str(tmp_path), "evaluate_every": 4}, allowed
    )
    process.join()
    assert process.exitcode == 3 and len(before) > 20_000
    words = (tmp_path / "out.txt").read_text()
    assert words.startswith("TrainingError") and str(path) in words and "intact" in words
    assert path.read_bytes() == before
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"checkpoint.safetensors", "out.txt", "out.listens"}, "a piece of a file was left behind"


def test_a_disk_that_refuses(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="file/run.*same command"):
        runs.train("mlm", steps=2, folder=tmp_path / "file" / "run")
    runs.train("mlm", steps=4, folder=tmp_path, evaluate_every=4)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(TrainingError, match="No space left on device.*intact"):
        write_checkpoint(tmp_path / "checkpoint.safetensors", {"x": torch.zeros(3)}, {})
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint.safetensors", "file"}


def test_a_new_checkpoint_takes_the_place_of_the_old_one_whole(tmp_path):
    """Never written over: who holds the old file open still reads all of it, so no moment shows half a file."""
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"x": torch.zeros(3)}, {"step": 1})
    before = path.read_bytes()
    with path.open("rb") as old:
        write_checkpoint(path, {"x": torch.ones(5)}, {"step": 2})
        assert old.read() == before
    assert step_of(tmp_path) == 2
