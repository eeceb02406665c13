"""The rules of the house, read from the syntax trees: imports, sizes, docstrings. Each test lists every offence."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "madx"

#: The floors, top first. A room (a folder or a top file of the package) imports from rooms on lower floors alone;
#: `madx` is the front door, `madx/__init__.py`.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("madx",),
    ("jobs",),
    ("training", "report", "interop"),
    ("results",),
    ("tasks", "store"),
    ("metrics",),
    ("data",),
    ("engine",),
    ("module",),
    ("base", "module_types"),
    ("composition", "contract"),
    ("registry", "config"),
    ("files",),
    ("errors", "outside", "version", "checksums"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def name_of(path: Path) -> str:
    parts = ("madx", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else name


def imports(tree: ast.Module, package: str = "") -> Iterator[tuple[str, int]]:
    """Every imported module with its line, also inside functions and under TYPE_CHECKING; `package` resolves dots.

    `from madx.engine import plan, Engine` gives `madx.engine.plan`, which is a file, and `madx.engine`.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *filter(None, [node.module])])
            names = [f"{source}.{alias.name}" for alias in node.names]
            yield from ((name if name in FILES else source, node.lineno) for name in names)


def inside(name: str) -> list[tuple[str, int]]:
    """The files of the package that one of them imports, with the lines."""
    package = name if FILES[name].name == "__init__.py" else name.rpartition(".")[0]
    return [(found, line) for found, line in imports(TREES[name], package) if found in FILES and found != name]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """The groups of nodes that reach each other: the strongly connected components of more than one node."""
    reach: dict[str, set[str]] = {}
    for start in graph:
        found: set[str] = set()
        left = [start]
        while left:
            new = graph[left.pop()] - found
            found |= new
            left.extend(new)
        reach[start] = found
    groups = {tuple(sorted(b for b in reach[a] if a in reach[b])) for a in graph if a in reach[a]}
    return [list(group) for group in sorted(groups)]


def refuse(faults: list[str]) -> None:
    if faults:
        pytest.fail(f"{len(faults)} found:\n" + "\n".join(faults), pytrace=False)


# ---- imports ---------------------------------------------------------------------------------------------------------


def test_imports_go_only_downward_and_in_no_circle():
    faults = [f"{name} lies in a room without a floor: add it to FLOORS" for name in FILES if room(name) not in FLOOR]
    for name in FILES:
        for found, line in inside(name):
            upward = FLOOR.get(room(found), 99) <= FLOOR.get(room(name), -1)
            if upward and room(found) != room(name):
                faults.append(f"{FILES[name]}:{line}: {name} imports {found}, which does not lie on a lower floor")
    graph = {name: {found for found, _ in inside(name)} for name in FILES}
    faults += ["These files import each other in a circle: " + ", ".join(group) for group in circles(graph)]
    refuse(faults)


def test_the_rule_finds_imports_in_functions_and_under_type_checking_and_circles():
    text = "import typing\nif typing.TYPE_CHECKING:\n    from ..engine import plan\ndef f():\n    import madx.cli\n"
    assert list(imports(ast.parse(text), "madx.jobs")) == [("typing", 1), ("madx.engine.plan", 3), ("madx.cli", 5)]
    text = "from madx.engine import plan, Engine\nfrom . import settings\nfrom .. import common\n"
    found = [name for name, _ in imports(ast.parse(text), "madx.jobs.matrix")]
    assert found == ["madx.engine.plan", "madx.engine", "madx.jobs.matrix.settings", "madx.jobs.common"]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}) == [["a", "b", "c"]]
    assert FLOOR["cli"] < FLOOR["madx"] < FLOOR["jobs"] < FLOOR["engine"] < FLOOR["module_types"] < FLOOR["errors"]


def test_module_types_know_torch_alone():
    allowed = sys.stdlib_module_names | {"torch", "pydantic", "madx"}
    faults = [
        f"{FILES[name]}:{line}: {found}"
        for name in FILES
        if room(name) == "module_types"
        for found, line in imports(TREES[name], name)
        if found.partition(".")[0] not in allowed
    ]
    refuse(faults)


# ---- sizes and habits ------------------------------------------------------------------------------------------------


def test_files_are_small_assert_nothing_and_pipelines_only_call_the_library():
    faults = []
    for name, path in FILES.items():
        faults += length(path, limit=400)
        faults += [
            f"{path}:{node.lineno}: raise a MadxError instead of an assert, which is gone under `python -O`"
            for node in ast.walk(TREES[name])
            if isinstance(node, ast.Assert)
        ]
        faults += [f"{path}:{line}: imports a pipeline" for found, line in imports(TREES[name]) if "pipelines" in found]
    for path in (ROOT / "pipelines").glob("*.py"):
        if path.name.startswith("make_"):  # it made the data of the package, once
            continue
        faults += length(path, limit=150)
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        faults += [f"{path}:{node.lineno}: a class" for node in nodes if isinstance(node, ast.ClassDef)]
    refuse(faults)


def length(path: Path, *, limit: int) -> list[str]:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    return [f"{path} has {lines} lines, more than {limit}: which two things does it do?"] if lines > limit else []


def test_every_test_file_has_a_test_and_a_name_of_its_own():
    faults, names = [], set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if not re.search(r"^def test_", path.read_text(encoding="utf-8"), re.MULTILINE):
            faults.append(f"{path} holds no test")
        if path.name in names:
            faults.append(f"{path}: another folder of tests has a file of this name, and pytest imports files by name")
        names.add(path.name)
    refuse(faults)


# ---- docstrings ------------------------------------------------------------------------------------------------------


def public(node: ast.Module | ast.ClassDef, outer: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Public functions, classes and methods with their names.

    A method needs no docstring of its own when its abstract parent has it (or torch: `forward`), or when it is as short
    as a docstring would be.
    """
    for child in node.body:
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not child.name.startswith("_"):
            method = outer and not isinstance(child, ast.ClassDef)
            if not method or child.name not in INHERITED and child.end_lineno - child.lineno > 8:
                yield child, f"{outer}{child.name}"
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{outer}{child.name}.")


INHERITED = {"forward"} | {
    method.name
    for name, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, ast.ClassDef) and (room(name) == "contract" or "ABC" in map(ast.unparse, node.bases))
    for method in node.body
    if isinstance(method, ast.FunctionDef) and ast.get_docstring(method)
}


def test_every_public_name_has_a_docstring():
    faults = []
    for name, tree in TREES.items():
        nodes = [(tree, "the file"), *public(tree)] if tree.body else []
        faults += [f"{FILES[name]}: {what} has no docstring" for node, what in nodes if not ast.get_docstring(node)]
    refuse(faults)


def test_docstrings_open_with_a_verb_or_a_noun():
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    faults = []
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            if text and re.match(r"(what|whether|the same)\b", text, re.IGNORECASE):
                faults.append(f"{FILES[name]}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}")
    refuse(faults)


# ---- README ----------------------------------------------------------------------------------------------------------


def tree_of_the_readme() -> dict[str, set[str]]:
    """Folder -> names that the tree in the section "Files" lists below it, for each folder whose content is listed."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Files\n")[1].split("```")[1]
    found: dict[str, set[str]] = {}
    above = [(-1, "")]
    for line in filter(None, section.split("\n")):
        text = line.lstrip()
        depth = len(line) - len(text)
        while above[-1][0] >= depth:
            above.pop()
        names = re.split(r"\s{2,}", text)[0].split(", ")
        found.setdefault(above[-1][1], set()).update(names)
        above.append((depth, above[-1][1] + names[0]))
    return found


def test_the_tree_of_the_readme_is_that_of_the_repository():
    git = ["git", "-c", "safe.directory=*", "-C", str(ROOT), "ls-files"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("git does not know this folder, so which files belong to the repository is unknown")
    files = [file for file in done.stdout.splitlines() if file != ".gitignore" and (ROOT / file).exists()]
    faults = []
    for folder, named in tree_of_the_readme().items():
        below = [file.removeprefix(folder) for file in files if file.startswith(folder)]
        there = {re.sub(r"/.*", "/", file) for file in below}
        faults += [f"{folder}{name} is in the tree of README.md, but not there" for name in sorted(named - there)]
        faults += [f"{folder}{name} is not in the tree of README.md" for name in sorted(there - named)]
    refuse(faults)
