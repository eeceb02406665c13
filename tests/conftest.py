"""Settings of all tests: offline, one thread for each process, the same random examples in every run."""

import os

# Before torch is imported: with several workers on a machine, a pool of threads in each of them only takes time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

# A deadline in milliseconds fails on a busy machine; examples drawn anew in each run fail for somebody else.
hypothesis.settings.register_profile("madx", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("madx")

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("MADX_SHARED", HERE.parents[1] / "shared"))

#: Helpers and programs hold no tests; `--doctest-modules` would import, and so run, each of them.
collect_ignore = [str(path) for path in HERE.rglob("*.py") if not path.name.startswith("test_")]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference material beside the checkout; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip(f"There is no reference material in {SHARED}; set MADX_SHARED to its folder.")
    return SHARED
