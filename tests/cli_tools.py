"""What the tests of the command line share: running commands here or as a real process, and catching their settings."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

import madx.jobs
from madx.cli import app

ROOT = Path(__file__).parents[1]
SCHEMAS = {
    "train-language": "TrainLanguage",
    "train-task": "TrainTask",
    "evaluate": "Evaluate",
    "inspect": "Inspect",
    "matrix": "Matrix",
    "compare": "Compare",
}


def run(*words: str, input: str | None = None):
    """A command in this process; its result has exit_code, stdout, stderr and exception."""
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, [str(w) for w in words], input=input)


def process(*words: str, cwd: Path, **options) -> subprocess.CompletedProcess:
    """`python -m madx` as a real process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "madx", *map(str, words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def failed(result, code: int = 1) -> str:
    """What a command that failed said; there is no traceback in it."""
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    assert "Traceback" not in result.output
    return result.stderr


class Captured(Exception):
    """Carries the settings that a command would have run a job with."""


def captured(monkeypatch, job: str, *words: str, where=madx.jobs):
    """The settings that a command hands to its job; the job does not run."""

    def fake(settings):
        raise Captured(settings)

    monkeypatch.setattr(where, job, fake)
    result = run(*words)
    assert isinstance(result.exception, Captured), (result.output, result.exception)
    return result.exception.args[0]
