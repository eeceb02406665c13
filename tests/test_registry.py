"""Registries and the discovery of a folder's files."""

import sys

import pytest

from madx.errors import ConfigError, did_you_mean
from madx.registry import Registry, discover


def test_registry():
    shapes = Registry("shape")

    @shapes.register("round")
    class Round:
        pass

    assert shapes.get("round") is Round and Round.name == "round" and "round" in shapes and list(shapes) == ["round"]
    assert shapes.register("round")(Round) is Round  # a file imported twice is no second entry
    with pytest.raises(ConfigError, match="'rond'.*did you mean 'round'"):
        shapes.get("rond")
    with pytest.raises(ConfigError, match="'round'.*Rename"):
        shapes.register("round")(type("Other", (), {}))
    assert shapes.items() == [("round", Round)]


def test_discovery_imports_every_file_but_private_ones(tmp_path, monkeypatch):
    folder = tmp_path / "found_shapes"
    folder.mkdir()
    (folder / "__init__.py").write_text("seen = []\n")
    for name in ("one", "two", "_private"):
        (folder / f"{name}.py").write_text(f"from found_shapes import seen\nseen.append({name!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    discover("found_shapes")
    discover("found_shapes")
    assert sorted(sys.modules["found_shapes"].seen) == ["one", "two"]


def test_suggestions():
    assert did_you_mean("swahilli", ["hausa", "swahili"]) == "did you mean 'swahili'? Allowed: hausa, swahili"
    assert did_you_mean("xyz", []) == "Allowed: (none)"


def test_other_distributions_add_by_an_entry_point(tmp_path, monkeypatch):
    record = tmp_path / "theirs-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[open_shapes]\nsquare = their_square\n")
    (tmp_path / "their_square.py").write_text("import open_shapes\nopen_shapes.seen.append('square')\n")
    (tmp_path / "open_shapes").mkdir()
    (tmp_path / "open_shapes" / "__init__.py").write_text("seen = []\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    discover("open_shapes")
    assert sys.modules["open_shapes"].seen == ["square"]
