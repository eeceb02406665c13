"""The command line: start-up, help, what there is to choose from, and how flags and files become settings."""

import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer.main
import yaml
from cli_tools import ROOT, SCHEMAS, captured, process, run

import madx.jobs
from madx.base.families import FAMILIES
from madx.cli import app
from madx.config import load
from madx.errors import MadxError
from madx.module.presets import PRESETS, make_components
from madx.module_types import MODULE_TYPES
from madx.tasks import TASKS

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


# ---- start-up and help -----------------------------------------------------------------------------------------------


def test_help_answers_at_once_without_the_heavy_libraries(tmp_path):
    code = (
        "import sys, time\nfrom typer.testing import CliRunner\nfrom madx.cli import app\n"
        "for words in (['--help'], ['train-language', '--help'], ['modules', '--help']):\n"
        "    assert CliRunner().invoke(app, words).exit_code == 0\n"
        "heavy = ('torch', 'transformers', 'datasets', 'accelerate')\n"
        "print([m for m in heavy if m in sys.modules], time.process_time())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    heavy, seconds = done.stdout.rsplit(" ", 1)
    assert heavy == "[]"
    assert float(seconds) < 1.0


def test_module_entry_and_versions(tmp_path):
    done = process("--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    for package in ("madx", "torch", "transformers", "python"):
        assert re.search(rf"^{package} \S", done.stdout, re.M)


def commands():
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        yield name, command
        for child, sub in getattr(command, "commands", {}).items():
            yield f"{name} {child}", sub


def test_every_command_and_option_is_explained():
    found = dict(commands())
    wanted = {
        "train-language",
        "train-task",
        "evaluate",
        "predict",
        "explain",
        "config",
        "tasks",
        "bases",
        "quickstart",
        "inspect",
        "report",
        "modules list",
        "modules show",
        "modules verify",
        "modules remove",
        "modules types",
        "modules presets",
        "modules import",
        "modules export",
        "modules formats",
    }
    assert wanted <= set(found)
    for name, command in found.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, (name, parameter.name)
        assert run(*name.split(), "--help").exit_code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["no-such-command"],
        ["train-language", "--no-such-flag"],
        ["predict"],
        ["config", "bake"],
        ["train-language", "--steps", "many"],
    ],
)
def test_wrong_usage_is_code_2(words):
    assert run(*words).exit_code == 2


# ---- what there is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", SCHEMAS)
def test_config_prints_every_setting_with_its_meaning(job):
    done = run("config", job)
    schema = getattr(madx.jobs, SCHEMAS[job])
    assert done.exit_code == 0
    for name, field in schema.model_fields.items():
        assert re.search(rf"^\W*{name}:", done.stdout, re.M), name
        assert field.description.split(",")[0][:40] in done.stdout, name
    yaml.safe_load(done.stdout)


def test_types_prints_every_module_type_as_yaml_that_can_be_used():
    shown = run("modules", "types").stdout
    parts = yaml.safe_load(shown)["components"]
    made = make_components(parts)
    assert list(made) == MODULE_TYPES.names()
    assert made == {name: MODULE_TYPES.get(name).Config() for name in made}
    for name in made:
        for setting, field in MODULE_TYPES.get(name).Config.model_fields.items():
            assert setting in parts[name] and field.description in shown
    assert "(number, >= 0.0, < 1.0)" in shown and "(normal | truncated | zero_up)" in shown
    assert list(yaml.safe_load(run("modules", "types", "invertible").stdout)["components"]) == ["invertible"]


def test_presets_tasks_and_bases_are_listed():
    presets = run("modules", "presets").stdout
    assert all(name in presets for name in PRESETS)
    assert all(name in run("tasks").stdout for name in TASKS.names())
    bases = run("bases").stdout
    assert all(kind in bases for family in FAMILIES for kind in family.model_types)


# ---- settings --------------------------------------------------------------------------------------------------------


def test_flags_override_set_which_overrides_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "language.yaml").write_text(
        "base: base\nlanguage: eng\ncorpus: eng.txt\nsteps: 3\nseed: 4\nbatch_size: 2\n"
    )
    words = ["language.yaml", "--set", "seed=5", "--set", "steps=6", "--steps", "7", "--fresh"]
    settings = captured(monkeypatch, "train_language", "train-language", *words)
    assert (settings.batch_size, settings.seed, settings.steps, settings.resume) == (2, 5, 7, False)
    assert (settings.corpus, settings.overwrite, settings.components) == ("eng.txt", False, "madx")


def test_values_of_flags_are_taken_as_they_are(tmp_path, monkeypatch):
    odd = "a: b, #1 [x] 'y'.txt"
    settings = captured(
        monkeypatch,
        "train_language",
        "train-language",
        "--base",
        "null",
        "--language",
        "swa",
        "--corpus",
        odd,
        "--corpus",
        "12",
    )
    assert settings.corpus == [odd, "12"] and settings.base == "null"


def test_quickstart_takes_its_flags(monkeypatch):
    job = importlib.import_module("madx.jobs.quickstart")
    plain = captured(monkeypatch, "quickstart", "quickstart", "--out", "here", "--seeds", "2", where=job)
    assert plain == job.Quickstart(out="here", seeds=[1, 2])
    fast = captured(monkeypatch, "quickstart", "quickstart", "--fast", "--set", "epochs=9", "--seeds", "2", where=job)
    assert (fast.targets, fast.seeds, fast.epochs) == (["swa"], [1, 2], 9)
    assert plain.language_steps is None and fast.language_steps < 300


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_the_first_lines_of_a_config_are_commands_that_take_it(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    first, second, *_ = (line.removeprefix("# ").replace("$", "/some/") for line in path.read_text().splitlines())
    madx_word, command, *words = shlex.split(first)
    assert madx_word == "madx" and ROOT / words[0] == path
    settings = captured(monkeypatch, command.replace("-", "_"), command, *words)
    if second.startswith("python"):  # a recipe that takes the file, too
        _, pipeline, config, *overrides = shlex.split(second)
        assert (ROOT / pipeline).is_file() and config == words[0]
        assert settings == load(config, getattr(madx.jobs, SCHEMAS[command]), overrides)


def test_there_are_configs():
    names = {str(p.relative_to(ROOT / "configs")) for p in CONFIGS}
    assert {
        "train_language.yaml",
        "train_language_small.yaml",
        "train_task.yaml",
        "evaluate.yaml",
        "matrix.yaml",
        "real_input.yaml",
    } <= names


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_debug_shows_where(tmp_path):
    result = run("--debug", "modules", "show", "sw", "--store", tmp_path)
    assert isinstance(result.exception, MadxError)


def test_a_fault_in_a_real_process_leaves_no_traceback(tmp_path):
    done = process("evaluate", "--target", "swa", cwd=tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("Error: --target 'swa'") and "Traceback" not in done.stderr
