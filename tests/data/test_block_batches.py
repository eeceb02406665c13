"""The stream of blocks: every block once in each permutation, any step at once, shared by any number of processes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madx.data.text.block_batches import BlockBatches
from madx.errors import ConfigError


def blocks_of(stream, step):
    return stream.share_of_step(step).blocks.tolist()


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 5))
def test_the_stream_is_permutation_after_permutation(count, size, seed):
    stream = BlockBatches(count, batch_size=size, seed=seed)
    steps = -(-3 * count // size)
    places = [block for step in range(steps) for block in blocks_of(stream, step)]
    for epoch in range(3):
        assert sorted(places[epoch * count : (epoch + 1) * count]) == list(range(count))
    fresh = BlockBatches(count, batch_size=size, seed=seed)  # goes straight to the last step
    assert blocks_of(fresh, steps - 1) == blocks_of(stream, steps - 1)


@given(st.integers(1, 30), st.integers(4, 12), st.integers(1, 4), st.integers(0, 20))
def test_processes_share_the_global_batch(count, size, processes, step):
    whole = BlockBatches(count, batch_size=size, seed=1).share_of_step(step)
    assert whole.rows.tolist() == list(range(size))
    seen = []
    for process in range(processes):
        stream = BlockBatches(count, batch_size=size, seed=1, process_index=process, process_count=processes)
        share = stream.share_of_step(step)
        assert share.blocks.tolist() == whole.blocks[share.rows].tolist()
        seen += share.rows.tolist()
    assert sorted(seen) == list(range(size))


def test_seeds_and_permutations_differ():
    first, second = (BlockBatches(1000, batch_size=1000, seed=seed) for seed in (0, 1))
    assert (first.share_of_step(0).blocks != second.share_of_step(0).blocks).any()
    assert (first.share_of_step(0).blocks != first.share_of_step(1).blocks).any()
    assert first.share_of_step(0).blocks.dtype == np.int64


@pytest.mark.parametrize(
    "count, settings, expected",
    [
        (0, {"batch_size": 4}, "0 blocks.*at least 1"),
        (4, {"batch_size": 0}, "batches of 0.*at least 1"),
        (4, {"batch_size": 1, "process_count": 2}, "batch_size 1 for 2 processes.*raise batch_size"),
        (4, {"batch_size": 4, "process_index": 2, "process_count": 2}, "process 2 of 2: allowed are 0 to 1"),
    ],
)
def test_impossible_streams_are_refused(count, settings, expected):
    with pytest.raises(ConfigError, match=expected):
        BlockBatches(count, **settings)
