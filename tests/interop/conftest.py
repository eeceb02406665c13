import pytest
import tiny


@pytest.fixture(scope="module")
def base():
    """One base for all tests of a file."""
    return tiny.base()
