"""The house plan, held by the syntax trees: who may import whom, how large a file may be, and what every name says."""

import ast
from pathlib import Path

import pytest

import madx

ROOT = Path(madx.__file__).parent
FILES = sorted(p for p in ROOT.rglob("*.py"))

#: The floors of the house, top first; a file imports from its own floor and those below. The longest matching prefix of
#: a module's name decides. `madx` itself is the front door, which every floor below lies behind.
FLOORS = (
    ("madx.__main__",),
    ("madx.cli",),
    ("madx.front",),
    ("madx.jobs",),
    ("madx.training", "madx.report", "madx.results", "madx.interop"),
    ("madx.tasks", "madx.store"),
    ("madx.data", "madx.metrics"),
    ("madx.engine",),
    ("madx.module",),
    ("madx.base", "madx.module_types"),
    ("madx.composition", "madx.contract"),
    ("madx.registry", "madx.config"),
    ("madx.errors",),
)


def name_of(path):
    parts = ("madx", *path.relative_to(ROOT).with_suffix("").parts)
    return "madx.front" if parts == ("madx", "__init__") else ".".join(p for p in parts if p != "__init__")


def floor(name):
    name = "madx.front" if name == "madx" else name
    fits = [
        (len(prefix), number)
        for number, row in enumerate(FLOORS)
        for prefix in row
        if f"{name}.".startswith(f"{prefix}.")
    ]
    assert fits, f"{name} stands on no floor: add it to FLOORS"
    return max(fits)[1]


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Every imported module with its line, those inside functions too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name_of(path.parent / "__init__.py") if node.level else ""
            source = ".".join(
                filter(
                    None,
                    [".".join(package.split(".")[: len(package.split(".")) - max(node.level - 1, 0)]), node.module],
                )
            )
            names = [f"{source}.{a.name}" for a in node.names]
            deeper = [n for n in names if (ROOT.parent / n.replace(".", "/")).with_suffix(".py").exists()]
            yield from ((n, node.lineno) for n in deeper or [source])


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_only_down(path):
    here = floor(name_of(path))
    for name, line in imports(path):
        if name == "madx" or name.startswith("madx."):
            assert floor(name) >= here, f"{path}:{line}: {name_of(path)} imports {name}, which stands above it"


def test_the_rule_finds_an_import_that_goes_up(tmp_path):
    bad = tmp_path / "x.py"
    bad.write_text("def f():\n    from madx.engine import Engine\n")
    assert [n for n, _ in imports(bad)] == ["madx.engine"]
    assert floor("madx.engine") < floor("madx.module_types.bottleneck") and floor("madx.cli.jobs") < floor("madx")


@pytest.mark.parametrize("path", sorted((ROOT / "module_types").glob("*.py")), ids=name_of)
def test_module_types_know_torch_alone(path):
    allowed = {
        "torch",
        "pydantic",
        "madx",
        "typing",
        "abc",
        "dataclasses",
        "math",
        "collections",
        "functools",
        "itertools",
        "hashlib",
    }
    assert {name.partition(".")[0] for name, _ in imports(path)} <= allowed


def test_pipelines_are_imported_by_nobody_and_hold_no_class():
    for path in FILES:
        assert not any(name.split(".")[0] == "pipelines" for name, _ in imports(path)), path
    for path in (ROOT.parent / "pipelines").glob("[!m]*.py"):  # make_*.py made the package's own data, once
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= 150, f"{path}: {len(lines)} lines"
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree(path))), path


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_are_small(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{path} has {lines} lines: what two things does it do?"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_assert_in_the_library(path):
    found = [node.lineno for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)]
    assert not found, f"{path}:{found}: raise a MadxError instead; assert is gone under python -O"


def public(node, inside=""):
    """Public functions, classes and methods by name. A method needs no words of its own when the contract of its parent
    says them (contract/module_type.py, tasks/base.py, nn.Module's forward), or when it is as short as a sentence would be."""
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            if (
                not inside
                or isinstance(child, ast.ClassDef)
                or child.name not in CONTRACT
                and child.end_lineno - child.lineno > 8
            ):
                yield child, f"{inside}{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{inside}{child.name}.")


CONTRACT = {"forward"} | {
    n.name
    for p in ("contract/module_type.py", "tasks/base.py")
    for n in ast.walk(tree(ROOT / p))
    if isinstance(n, ast.FunctionDef)
}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_public_name_says_what_it_is(path):
    parsed = tree(path)
    if parsed.body:
        assert ast.get_docstring(parsed), f"{path} has no docstring"
    silent = [q for node, q in public(parsed) if not ast.get_docstring(node)]
    assert not silent, f"{path}: without a docstring: {', '.join(silent)}"


def test_no_test_file_is_empty_of_tests():
    for path in (ROOT.parent / "tests").rglob("test_*.py"):
        assert any(isinstance(n, ast.FunctionDef) and n.name.startswith("test_") for n in ast.walk(tree(path))), path
