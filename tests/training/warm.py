"""Imports and a first step, made once by the server of test processes, so that each of them starts at once."""

import tiny_runs as runs
import torch
from accelerate import PartialState

torch.set_num_threads(1)  # before the first product: a pool of threads does not survive a fork
for kind in ("mlm", "ner"):
    runs.train(kind, steps=1)
PartialState._reset_state()
