"""Parts that the jobs share: the memory of the process."""

import os
import resource
import sys

import numpy as np
import pytest

from madx.jobs.common import keep_freed_memory


@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
def test_freed_blocks_are_kept(monkeypatch):
    for name in [k for k in os.environ if k.startswith(("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD"))]:
        monkeypatch.delenv(name)
    if not keep_freed_memory():
        pytest.skip("the C library has no mallopt")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            np.empty(8 << 20, dtype=np.uint8).fill(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert faults() < 2048, "8 MB are taken from the system anew each time"


def test_the_users_own_allocator_stands(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    assert keep_freed_memory() is False
