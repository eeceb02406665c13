import multiprocessing
import os
import sys
from multiprocessing import forkserver

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
    """Start `function(*arguments)` of `tiny_runs` in a process of its own; a server has done the imports (warm.py)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["warm"])
    with pytest.MonkeyPatch.context() as patch:  # Python 3.11's server does not take over sys.path by itself
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()

    def start(function, *arguments):
        process = context.Process(target=function, args=arguments)
        process.start()
        return process

    return start
