"""Training of a masked-LM head over a frozen base, whose encoder runs without gradients."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from madx.engine import Engine
from madx.training.trainable import Trainable


class HeadTrainable(Trainable):
    """The masked-LM head of an engine's base, in float32 whatever the number format of the base."""

    def __init__(self, engine: Engine):
        self.head = engine.train_head()
        for parameter in self.head.values():
            parameter.data = parameter.data.float()
        super().__init__(engine, list(self.head.values()))

    @contextmanager
    def running(self) -> Iterator["HeadTrainable"]:
        """For the length of a run, gradients reach the head."""
        try:
            yield self
        finally:
            self.engine.freeze()

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.head)

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.head.items():
            parameter.copy_(state[name])
