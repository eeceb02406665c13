"""What a user is told while a run goes on: that other programs hold its threads up."""

import re

import pytest
import torch

from madx.training import cpu_contention as crowding
from madx.training import progress
from madx.training.cpu_contention import WATCHED, Crowding, Reading
from madx.training.progress import ProgressView

CORES = 2


@pytest.fixture
def machine(monkeypatch):
    """Cores whose counts a test moves on: `machine(seconds, busy, own)`."""
    state = {"clock": 0.0, "busy": 100.0, "own": 5.0}

    def go_on(seconds: float, busy: float, own: float) -> None:
        for key, amount in (("clock", seconds), ("busy", busy), ("own", own)):
            state[key] += amount

    monkeypatch.setattr(crowding, "reading", lambda: Reading(**state, cores=CORES))
    monkeypatch.setattr(crowding.time, "monotonic", lambda: state["clock"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return go_on


def test_another_program_is_told_of_once(machine):
    watch = Crowding()
    machine(WATCHED, 2 * WATCHED, WATCHED)
    text = watch.notice()
    assert "1.0 of the 2 cores" in text and "2 threads" in text and "OMP_NUM_THREADS=1 " in text
    machine(WATCHED, 2 * WATCHED, WATCHED)
    assert watch.notice() is None


def test_own_work_is_no_crowd(machine):
    watch = Crowding()
    for _ in range(3):
        machine(WATCHED, 2 * WATCHED, 1.9 * WATCHED)
        assert watch.notice() is None


def test_each_window_counts_for_itself(machine):
    watch = Crowding()
    machine(100 * WATCHED, 100 * WATCHED, 100 * WATCHED)
    assert watch.notice() is None
    machine(WATCHED / 2, WATCHED, WATCHED / 2)
    assert watch.notice() is None, "not yet long enough"
    machine(WATCHED / 2, WATCHED, WATCHED / 2)
    assert watch.notice() is not None


@pytest.mark.parametrize(
    ("threads", "others", "told"), [(1, 1.9, False), (2, 0.4, False), (2, 0.6, True), (4, 0.0, False)]
)
def test_threads_that_find_a_core_each_are_no_matter(machine, monkeypatch, threads, others, told):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(crowding, "reading", _with_cores(crowding.reading, max(CORES, threads)))
    watch = Crowding()
    machine(WATCHED, (1 + others) * WATCHED, WATCHED)
    assert (watch.notice() is not None) == told


def _with_cores(reading, cores):
    return lambda: Reading(**{**vars(reading()), "cores": cores})


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(crowding, "COUNTS", str(tmp_path / "absent"))
    assert crowding.reading() is None and Crowding().notice() is None


def test_the_counts_of_linux(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 4000 500 6 7 8 900 1000\ncpu1 1 1 1 1 1 1 1 1 1 1\ncpu2 5 0 0 7 7 0 0 0 0 0\nintr 7\n"
    )
    monkeypatch.setattr(crowding, "COUNTS", str(stat))
    monkeypatch.setattr(crowding.os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    monkeypatch.setattr(crowding.os, "sysconf", lambda _: 100, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = crowding.reading()
    assert (found.cores, found.busy) == (2, pytest.approx(1.76)), (
        "user, nice, system, interrupts and stolen time; a guest's is the user's"
    )


def test_the_view_says_it(machine, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 1e9)
    with ProgressView("ner", 10) as view:
        view.step(1, loss=1.0, tokens=8)
        machine(WATCHED, 2 * WATCHED, WATCHED)
        view.step(2, loss=1.0, tokens=8)
    assert re.search(r"Other programs keep 1\.0 of the\s+2 cores", capsys.readouterr().err)


def test_a_view_that_is_not_shown_looks_at_nothing(machine, monkeypatch):
    monkeypatch.setattr(crowding, "reading", lambda: pytest.fail("read"))
    with ProgressView("ner", 10, shown=False) as view:
        view.step(1, loss=1.0, tokens=8)


def test_more_threads_than_cores_are_no_crowd_by_themselves_and_cores_must_be_known(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    watch = Crowding()
    machine(WATCHED, 2 * WATCHED, 2 * WATCHED)
    assert watch.notice() is None
    monkeypatch.undo()
    (tmp_path / "stat").write_text("cpu0 1 1 1 1 1 1 1 1 1 1\n")
    monkeypatch.setattr(crowding, "COUNTS", str(tmp_path / "stat"))
    monkeypatch.setattr(crowding.os, "sched_getaffinity", lambda _: {4, 5}, raising=False)
    assert crowding.reading() is None
