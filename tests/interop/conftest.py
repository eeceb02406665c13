import pytest
import tiny
from adapterhub_tools import LABELS, module

from madx.interop import export_adapterhub


@pytest.fixture(scope="module")
def base():
    """One base for all tests of a file."""
    return tiny.base()


@pytest.fixture
def folder(base, tmp_path):
    """An AdapterHub folder with a MAD-X language module, as .bin."""
    return export_adapterhub(module(base), tmp_path / "swa", base=base)


@pytest.fixture
def tagged(base, tmp_path):
    """An AdapterHub folder with a task module and its head."""
    return export_adapterhub(module(base, "pfeiffer", labels=LABELS), tmp_path / "ner", base=base)
