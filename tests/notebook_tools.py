"""Runs notebooks offline in a kernel of this environment; as a program (`make notebooks`) it keeps their outputs."""

import os
import sys
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
#: Two threads that share a core wait for each other most of the time. Progress bars, and the warning that a widget for
#: them is missing, do not belong into kept outputs.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONWARNINGS": "ignore:IProgress",
    "HF_HUB_OFFLINE": "1",
}


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook as it is stored."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list:
    """Its cells of code, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run from top to bottom, by this checkout's madx."""
    notebook = read(path)
    places = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    )
    with patch.dict(os.environ, ENVIRONMENT | {"PYTHONPATH": places}):
        client.execute()
    return notebook


def main(names: list[str]) -> None:
    """Run the notebooks of these names, or all, and store each with its outputs."""
    for path in [FOLDER / f"{name}.ipynb" for name in names] or NOTEBOOKS:
        nbformat.write(execute(path), path)
        print(path.name)


if __name__ == "__main__":
    main(sys.argv[1:])
