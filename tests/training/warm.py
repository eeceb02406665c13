"""What the server of test processes does once, so that each of them starts in no time: imports and a first step."""

import tiny_runs as runs
import torch
from accelerate import PartialState

torch.set_num_threads(1)  # before the first product: a pool of threads does not survive a fork
for kind in ("mlm", "ner"):
    runs.train(kind, steps=1)
PartialState._reset_state()
