"""docs/module_types.md: its numbers are true, and the module type that it adds in one file works as it says."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from by_hand import SITES, given, prepare, run, sites, unit_at, units

from madx.contract.module_type import ModuleType, class_of
from madx.errors import ConfigError
from madx.module.presets import make_components
from madx.module_types import MODULE_TYPES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "module_types.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
XLMR = 277_453_056  # weights of the encoder of XLM-R base


def rows_of(columns):
    """The rows of the tables with that many columns whose first cell is a module type."""
    return {row[0].strip("`"): row for row in ROWS if len(row) == columns and row[0].strip("`") in MODULE_TYPES}


def test_the_tables_have_every_type():
    assert list(rows_of(5)) == list(rows_of(4)) and sorted(rows_of(5)) == MODULE_TYPES.names()
    for name, row in rows_of(4).items():
        kind = MODULE_TYPES.get(name)
        assert row[2] == f"`{class_of(kind).__name__}`"
        assert all(
            f"arXiv:{number}" in sys.modules[kind.__module__].__doc__ for number in re.findall(r"\d{4}\.\d{5}", row[1])
        )


@pytest.mark.parametrize("name", [name for name in MODULE_TYPES if name not in ("sparse_diff", "far")])
def test_trainable_numbers_on_xlmr_base(name):
    prepared = MODULE_TYPES.get(name).prepare is not ModuleType.prepare  # which may take parameters away
    with torch.device("cpu" if prepared else "meta"):
        made = units(name, awake=False, at=sites(width=768, inner=3072, depth=12, glu=False))
        prepare(made)
    count = sum(p.numel() for unit in made for p in unit.parameters())
    count += sum(p.numel() for p in made[0].common.parameters()) if made[0].common is not None else 0
    assert rows_of(5)[name][-1] == f"{count:,} ({100 * count / XLMR:.3f} %)"


def test_entries_on_xlmr_base():
    count = 12 * 2 * 768 * 384 + 768**2
    assert rows_of(5)["sparse_diff"][-1] == f"{count:,} ({100 * count / XLMR:.3f} %)"


def test_learning_nodes_on_xlmr_base():
    """A priming run over all nodes of a large base would take too long here."""
    nodes = make_components({"far": {}})["far"].nodes(3072)
    count = 12 * nodes * (2 * 768 + 1)
    assert rows_of(5)["far"][-1] == f"{count:,} ({100 * count / XLMR:.3f} %)"


@pytest.fixture
def page(monkeypatch):
    """The page's Python blocks, run one after the other in one module; what they register is taken out again."""
    module = types.ModuleType("madx.module_types.shift")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(MODULE_TYPES, "_classes", dict(MODULE_TYPES._classes))
    for language, code in BLOCKS:
        if language == "python":
            exec(compile(code, "docs/module_types.md", "exec"), module.__dict__)
    return module


def test_the_type_of_the_page_keeps_the_contract(page):
    assert MODULE_TYPES.get("shift") is page.Shift and page.__doc__.startswith("Shift: ")
    components = make_components(
        yaml.safe_load(next(code for language, code in BLOCKS if language == "yaml"))["components"]
    )
    assert components["shift"] == page.ShiftConfig(scale=0.5, leave_out=(-1,))
    acting = [site.name for site in SITES if page.Shift.acts_at(components["shift"], site)]
    assert acting == ["layer.0", "layer.1"]

    unit = unit_at("shift", "layer.1", {"scale": 0.5})
    at = given(unit.site)
    assert torch.equal(run(unit, at), (0.5 * unit.vector).expand(2, 5, -1)) and unit.describe() == "a vector of 12"
    run(unit, at).sum().backward()
    assert torch.allclose(unit.vector.grad, torch.full((12,), 0.5 * 10, dtype=torch.float64))
    assert not run(unit_at("shift", "layer.1", awake=False), at).any()
    with pytest.raises(ConfigError, match=r"shift\.scale: .*0, got 0\.0"):
        make_components({"shift": {"scale": 0.0}})


def test_the_page_leaves_no_type_behind():
    assert "shift" not in MODULE_TYPES and "madx.module_types.shift" not in sys.modules
