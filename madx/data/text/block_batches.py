"""An endless stream of batches of blocks, for masked language modelling.

The stream is a pure function of the seed and the step. Several processes share each *global* batch: process p of n
takes its rows p, p + n, p + 2n ..., so n processes train on the same batches as one.
"""

from typing import NamedTuple

import numpy as np

from madx.errors import ConfigError


class Share(NamedTuple):
    """The share of one process in the global batch of a step, int64 `(rows,)` each.

    blocks: the indices of the blocks; rows: their rows in the global batch, from which the masks are drawn.
    """

    blocks: np.ndarray
    rows: np.ndarray


class BlockBatches:
    """Permutation after permutation of the blocks 0 ... count - 1, cut into global batches.

    Step s takes the places s * batch_size ... (s + 1) * batch_size - 1 of the stream; place p is entry p mod count of
    permutation p div count. So any step can be computed at once, and a run that goes on replays nothing. In memory are
    at most two permutations, with 4 bytes for each block.

    count: blocks; batch_size: blocks in a global batch, at least one for each process. Raises ConfigError otherwise.
    """

    def __init__(self, count: int, *, batch_size: int, seed: int = 0, process_index: int = 0, process_count: int = 1):
        if count < 1 or batch_size < 1:
            raise ConfigError(f"{count} blocks in batches of {batch_size}: allowed is at least 1 of each.")
        if not 0 <= process_index < process_count:
            raise ConfigError(f"process {process_index} of {process_count}: allowed are 0 to {process_count - 1}.")
        if batch_size < process_count:
            raise ConfigError(
                f"batch_size {batch_size} for {process_count} processes: each needs at least one row; raise batch_size."
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.process_index, self.process_count = process_index, process_count
        self._permutations: dict[int, np.ndarray] = {}

    def share_of_step(self, step: int) -> Share:
        """Return this process's share of the global batch of a step; its blocks may belong to two permutations."""
        rows = np.arange(self.process_index, self.batch_size, self.process_count)
        places = (step * self.batch_size + rows).tolist()
        blocks = [self._permutation(place // self.count)[place % self.count] for place in places]
        return Share(np.array(blocks, dtype=np.int64), rows)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            self._permutations = {e: order for e, order in self._permutations.items() if e == epoch - 1}
            order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            self._permutations[epoch] = order.astype(np.int32)
        return self._permutations[epoch]
