"""Mean squared gradients of the base's weights: the diagonal of the empirical Fisher information."""

from collections.abc import Iterator

import torch
from torch import Tensor

from madx.errors import TrainingError
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.base import Batch, Task
from madx.training.base_gradients import reading_gradients
from madx.training.trainable import Trainee

#: steps without a single prediction after which the data is taken to have none
EMPTY_STEPS = 1000


def mean_squared_gradients(trainee: Trainee[SparseDiff], task: Task, *, samples: int) -> dict[str, Tensor]:
    """Parameter name -> mean over the samples of (d loss / d theta)^2, with the mean loss over a sample's predictions.

    Samples are the rows of the first training batches, one at a time, without dropout; the gradient of a parameter is
    squared and let go as soon as it is there. The base and the module are unchanged. Raises TrainingError for data
    without any prediction.
    """
    engine, module = trainee.engine, trainee.module
    engine.train_only(trainee.name)
    module.eval()
    weights = {p.name: engine.base.encoder.get_parameter(p.name) for p in trainee.unit.space.parameters}
    squares = {name: torch.zeros_like(p) for name, p in weights.items()}

    def add_square(name: str, gradient: Tensor) -> None:
        squares[name].addcmul_(gradient, gradient)

    try:
        with reading_gradients(weights, add_square):
            for row in _samples(trainee, task, samples):
                (task.loss(engine, row) / task.count(row)).backward()
    finally:
        for parameter in module.parameters():
            parameter.grad = None
    for square in squares.values():
        square /= samples
    return squares


def _samples(trainee: Trainee[SparseDiff], task: Task, samples: int) -> Iterator[Batch]:
    """The first rows that have predictions, each a batch of its own, with the composition of its step active."""
    seen = step = 0
    while seen < samples:
        task.activate(trainee.engine, step)
        for row in _rows(task, step, trainee.engine.base.device):
            if seen < samples and task.count(row):
                seen += 1
                yield row
        step += 1
        if not seen and step == EMPTY_STEPS:
            raise TrainingError(
                f"The first {step} training batches hold nothing to predict, so no gradients can be measured; "
                "check the training data, or choose another train.sparse.selection."
            )


def _rows(task: Task, step: int, device: torch.device) -> Iterator[Batch]:
    """The rows of a step's global batch, each a batch of its own."""
    for batch in task.batches(step):
        for row in range(len(batch["input_ids"])):
            yield {key: value[row : row + 1].to(device) for key, value in batch.items()}
