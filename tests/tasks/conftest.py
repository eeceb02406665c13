import pytest
from accelerate import PartialState


@pytest.fixture(autouse=True)
def _no_state_between_tests():
    """accelerate keeps the machine it found in a class attribute; every test finds it anew."""
    PartialState._reset_state()
    yield
    PartialState._reset_state()
