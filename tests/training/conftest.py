import multiprocessing

import pytest
from accelerate import PartialState


@pytest.fixture(autouse=True)
def _no_state_between_tests():
    """accelerate keeps the machine it found in a class attribute; every test finds it anew."""
    PartialState._reset_state()
    yield
    PartialState._reset_state()


@pytest.fixture(scope="session")
def spawn():
    """Start `function(*arguments)` of the module `runs` in a process of its own; one server has done the imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["runs"])

    def start(function, *arguments):
        process = context.Process(target=function, args=arguments)
        process.start()
        return process

    return start
