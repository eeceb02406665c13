import pytest
from accelerate import PartialState


@pytest.fixture(autouse=True)
def _no_state_between_tests():
    """accelerate keeps what it knows of the machine in a class attribute; every test starts without it."""
    PartialState._reset_state()
    yield
    PartialState._reset_state()
