"""Every notebook runs from top to bottom, offline, and keeps the outputs of such a run.

The outputs are complete, in order, without warnings and without paths of the machine that made them; `make notebooks`
makes them anew.
"""

import re

import pytest
from notebook_tools import FOLDER, NOTEBOOKS, code_cells, execute, read

LOCAL = re.compile(r"/(tmp|home|root|work|mnt|Users|var/folders)/\w|[A-Z]:\\\\?\w")


def kinds(notebook) -> list[list[str]]:
    """For each cell of code: the names of its output streams and the forms of its results."""
    return [
        [output.get("name") or "+".join(sorted(output.get("data", {"error": 0}))) for output in cell.outputs]
        for cell in code_cells(notebook)
    ]


def texts(notebook) -> list[str]:
    """All text that its cells leave."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    shown = [value for output in outputs for key, value in output.get("data", {}).items() if key.startswith("text/")]
    return [output.text for output in outputs if output.output_type == "stream"] + shown


def test_the_notebooks_of_the_readme_are_there():
    named = set(re.findall(r"(\w+)\.ipynb", (FOLDER.parent / "README.md").read_text(encoding="utf-8")))
    assert named == {path.stem for path in NOTEBOOKS} and named


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_kept(path):
    kept = read(path)
    counts = [cell.execution_count for cell in code_cells(kept)]
    assert counts == list(range(1, len(counts) + 1)), f"{path.name} was not run once from top to bottom: make notebooks"
    assert not any("stderr" in found or "error" in found for found in kinds(kept)), (
        f"{path.name} keeps warnings or errors"
    )
    assert not [text for text in texts(kept) if LOCAL.search(text)], f"{path.name} keeps paths of a machine"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jupyter_client and pyzmq about their own event loops
def test_notebook_runs(path):
    assert kinds(execute(path)) == kinds(read(path)), (
        f"the outputs kept in {path.name} are not of this notebook: make notebooks"
    )
