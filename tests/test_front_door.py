"""The front door: every public name is there for people and type checkers, and costs nothing until it is used."""

import ast
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

import madx

ROOT = Path(madx.__file__).parents[1]


def names_for_type_checkers() -> set[str]:
    tree = ast.parse((ROOT / "madx" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.asname for node in block.body for alias in node.names}


def test_names_are_the_same_for_all():
    assert names_for_type_checkers() == set(madx.__all__) <= set(dir(madx))
    assert {"__version__", "Transfer", "TrainLanguage", "train_language", "MatrixResult"} <= set(dir(madx))


@pytest.mark.parametrize("name", madx.__all__)
def test_every_name_is_there_and_documented(name):
    assert getattr(madx, name).__doc__


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="'train_languag'.*train_language"):
        madx.train_languag  # noqa: B018


def test_importing_it_costs_nothing(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import madx; print([m for m in sys.modules if 'torch' in m])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_version_stands_in_one_place():
    settings = ConfigParser()
    settings.read(ROOT / "setup.cfg")
    assert settings["metadata"]["version"] == "attr: madx.version.__version__"
