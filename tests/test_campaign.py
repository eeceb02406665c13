"""The campaign judges rightly, repeats what it did, and a slice of it finds nothing."""

import json
import logging
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from campaign import damage, mutations
from campaign.__main__ import SHARES, SLICE, SUBJECTS, Plan, plan_of
from campaign.outcome import FAULTS, Attempt, Tally
from campaign.subjects.subject import Subject
from campaign.table import as_json, grouped, table, write

from madx.errors import MadxError

ROOT = Path(__file__).parents[1]
JSON = b'{"format": 2, "labels": ["O", "B-PER"], "seed": 3, "scores": {"f1": 61.5}}'


@pytest.mark.parametrize("kind", damage.WAYS)
def test_damage_changes_the_bytes_and_can_be_repeated(kind):
    data = struct.pack("<Q", len(JSON)) + JSON + bytes(64) if kind == "safetensors" else JSON
    made = [damage.damaged(data, random.Random(n), kind) for n in range(200)]
    assert made == [damage.damaged(data, random.Random(n), kind) for n in range(200)]
    assert all(found != data for found, _ in made) and len({found for found, _ in made}) > 100
    assert all(how for _, how in made)


READS = {
    "equal": lambda data: "what was read",
    "other": lambda data: data,
    "refused": lambda data: (_ for _ in ()).throw(MadxError("no")),
    "long": lambda data: (_ for _ in ()).throw(MadxError("no" * 20_000)),
    "exception": lambda data: data["nothing"],
    "big": lambda data: (_ for _ in ()).throw(MemoryError()),
    "told": lambda data: logging.getLogger("madx").warning("read otherwise") or data,
    "anew": lambda data: logging.getLogger("madx").warning("made anew") or "what was read",
}


@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("wanted", READS)
def test_each_outcome_is_told_from_the_others(wanted, checked, tmp_path, monkeypatch):
    monkeypatch.setattr("madx.errors.LONGEST", 10**6)  # messages are bounded, so none is long otherwise

    def read(folder: Path) -> object:
        data = (folder / "x.json").read_bytes()
        return READS[wanted](data) if data != JSON else data if wanted in ("other", "told") else "what was read"

    subject = Subject("x", "here", lambda f: (f / "x.json").write_bytes(JSON), read, ("*.json",), checked=checked)
    logger = logging.getLogger("madx")
    before = logger.level, logger.handlers, logger.propagate
    try:
        reader = mutations.Reader(subject, tmp_path / "reader", seed=1)
        reader.prepare()
        found = [reader.attempt(n) for n in range(5)]
    finally:
        logger.level, logger.handlers, logger.propagate = before
        logger.setLevel(before[0])
    if wanted == "other" and checked:
        wanted = "silent"
    assert [attempt.outcome for attempt in found] == [wanted] * 5
    assert [attempt.fault for attempt in found] == [wanted in FAULTS] * 5


def test_a_table_counts_everything_and_prints_nothing_that_acts(tmp_path):
    tally = Tally()
    for number in range(3):
        tally.add(Attempt("kills", "train-task", number, "equal", kills=2))
        tally.add(Attempt("hub", "pull", number, "exception", "ETag '\x1b[2J'", "KeyError: 'x'"))
    tally.add(Attempt("kills", "train-task", 3, "lost", "", "swa is gone"))
    text = table(tally, seed=7, seconds=2.5)
    assert "seed 7" in text and "6 kills" in text and "\x1b" not in text
    assert "faults: 3 exception, 1 lost" in text and "3 exception: hub, 'pull', first number 0" in text
    assert [len(group) for group in grouped(tally.faults)] == [3, 1]
    written = json.loads(write(as_json(tally, seed=7, seconds=2.5), text, tmp_path / "out").read_text())
    assert written["kills"] == 6 and len(written["faults"]) == 4
    assert written["counts"][0] == {"part": "kills", "subject": "train-task", "tried": 4, "equal": 3, "lost": 1}
    with pytest.raises(ValueError, match="no outcome 'fine'"):
        Attempt("kills", "train-task", 0, "fine")


def test_a_plan_names_its_subjects():
    plan, out = plan_of(["--seed", "3", "--part", "kills", "--only", "matrix", "--number", "5", "--workers", "2"])
    assert plan.subjects == {"kills": ["matrix"]} and list(plan.numbers(0)) == [5] and list(plan.numbers(1)) == []
    assert out == Path("runs/campaign") and sum(SHARES.values()) == pytest.approx(1.0)
    whole = Plan(seed=1, seconds=100, workers=2, subjects=SUBJECTS, each=2)
    assert list(whole.numbers(1)) == [1, 3], "no two workers make one attempt twice"
    assert all(set(names) <= set(SUBJECTS[part]) for part, names in SLICE.items()) and list(SLICE) == list(SUBJECTS)
    with pytest.raises(SystemExit):
        plan_of(["--only", "nothing of this name"])


@pytest.mark.slow
def test_a_slice_of_the_campaign_finds_nothing(tmp_path):
    pytest.importorskip("fcntl")
    words = ["--slice", "--each", "1", "--workers", "1", "--seconds", "600", "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "campaign", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "campaign.json").read_text())
    tried = {(row["part"], row["subject"]) for row in found["counts"]}
    assert tried == {(part, name) for part, names in SLICE.items() for name in names}
    assert [fault for fault in found["faults"] if fault["outcome"] != "left"] == [], done.stdout
