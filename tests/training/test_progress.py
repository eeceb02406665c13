"""The progress of a run, and the notice that other programs hold up its threads."""

import re

import pytest
import torch

from madx.training import cpu_contention, progress
from madx.training.cpu_contention import WINDOW, CpuContention, CpuTimes
from madx.training.progress import ProgressView

CORES = 2


@pytest.fixture
def machine(monkeypatch):
    """Cores whose counts a test advances: `machine(seconds, busy, own)`."""
    state = {"clock": 0.0, "busy": 100.0, "own": 5.0}

    def go_on(seconds: float, busy: float, own: float) -> None:
        for key, amount in (("clock", seconds), ("busy", busy), ("own", own)):
            state[key] += amount

    monkeypatch.setattr(cpu_contention, "read_cpu_times", lambda: CpuTimes(**state, cores=CORES))
    monkeypatch.setattr(cpu_contention.time, "monotonic", lambda: state["clock"])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    return go_on


def test_another_program_is_told_of_once(machine):
    watch = CpuContention()
    machine(WINDOW, 2 * WINDOW, WINDOW)
    text = watch.notice()
    assert "1.0 of the 2 cores" in text and "2 threads" in text and "OMP_NUM_THREADS=1 " in text
    machine(WINDOW, 2 * WINDOW, WINDOW)
    assert watch.notice() is None


def test_own_work_is_no_contention(machine):
    watch = CpuContention()
    for _ in range(3):
        machine(WINDOW, 2 * WINDOW, 1.9 * WINDOW)
        assert watch.notice() is None


def test_each_window_counts_for_itself(machine):
    watch = CpuContention()
    machine(100 * WINDOW, 100 * WINDOW, 100 * WINDOW)
    assert watch.notice() is None
    machine(WINDOW / 2, WINDOW, WINDOW / 2)
    assert watch.notice() is None, "not yet long enough"
    machine(WINDOW / 2, WINDOW, WINDOW / 2)
    assert watch.notice() is not None


@pytest.mark.parametrize(
    ("threads", "others", "told"), [(1, 1.9, False), (2, 0.4, False), (2, 0.6, True), (4, 0.0, False)]
)
def test_threads_that_find_a_core_each_are_no_matter(machine, monkeypatch, threads, others, told):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(
        cpu_contention, "read_cpu_times", _with_cores(cpu_contention.read_cpu_times, max(CORES, threads))
    )
    watch = CpuContention()
    machine(WINDOW, (1 + others) * WINDOW, WINDOW)
    assert (watch.notice() is not None) == told


def _with_cores(reading, cores):
    return lambda: CpuTimes(**{**vars(reading()), "cores": cores})


def test_a_system_that_does_not_tell(monkeypatch, tmp_path):
    monkeypatch.setattr(cpu_contention, "COUNTS", str(tmp_path / "absent"))
    assert cpu_contention.read_cpu_times() is None and CpuContention().notice() is None


def test_the_counts_of_linux(monkeypatch, tmp_path):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 20 30 4000 500 6 7 8 900 1000\n"
        "cpu1 1 1 1 1 1 1 1 1 1 1\ncpu2 5 0 0 7 7 0 0 0 0 0\nintr 7\n"
    )
    monkeypatch.setattr(cpu_contention, "COUNTS", str(stat))
    monkeypatch.setattr(cpu_contention.os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    monkeypatch.setattr(cpu_contention.os, "sysconf", lambda _: 100, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = cpu_contention.read_cpu_times()
    assert (found.cores, found.busy) == (2, pytest.approx(1.76)), (
        "user, nice, system, interrupts and stolen time; a guest's is the user's"
    )


def test_the_view_says_it(machine, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_SECONDS", 1e9)
    with ProgressView("ner", 10) as view:
        view.step(1, loss=1.0, tokens=8)
        machine(WINDOW, 2 * WINDOW, WINDOW)
        view.step(2, loss=1.0, tokens=8)
    assert re.search(r"Other programs keep 1\.0 of the\s+2 cores", capsys.readouterr().err)


def test_a_view_that_is_not_shown_looks_at_nothing(machine, monkeypatch):
    monkeypatch.setattr(cpu_contention, "read_cpu_times", lambda: pytest.fail("read"))
    with ProgressView("ner", 10, shown=False) as view:
        view.step(1, loss=1.0, tokens=8)


def test_more_threads_than_cores_are_no_contention_by_themselves_and_cores_must_be_known(
    machine, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    watch = CpuContention()
    machine(WINDOW, 2 * WINDOW, 2 * WINDOW)
    assert watch.notice() is None
    monkeypatch.undo()
    (tmp_path / "stat").write_text("cpu0 1 1 1 1 1 1 1 1 1 1\n")
    monkeypatch.setattr(cpu_contention, "COUNTS", str(tmp_path / "stat"))
    monkeypatch.setattr(cpu_contention.os, "sched_getaffinity", lambda _: {4, 5}, raising=False)
    assert cpu_contention.read_cpu_times() is None
