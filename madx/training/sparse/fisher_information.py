"""Mean squared gradients of the base's weights: the diagonal of the empirical Fisher information."""

import torch
from torch import Tensor

from madx.engine import Engine
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.base import Task


def mean_squares(engine: Engine, name: str, unit: SparseDiff, task: Task, *, samples: int) -> dict[str, Tensor]:
    """Parameter name -> mean over the samples of (d loss / d theta)^2, `loss` being the mean over a sample's predictions.

    Samples are the rows of the first training batches, one at a time; the gradient of a parameter is squared and let go
    as soon as it is there. The base and the module are unchanged.
    """
    engine.train_only(name)
    weights = {p.name: engine.base.encoder.get_parameter(p.name) for p in unit.space.parameters}
    squares = {name: torch.zeros_like(p) for name, p in weights.items()}
    handles = []

    def reader(into: Tensor):
        def read(parameter: torch.nn.Parameter) -> None:
            into.addcmul_(parameter.grad, parameter.grad)
            parameter.grad = None

        return read

    try:
        for parameter_name, parameter in weights.items():
            parameter.requires_grad_(True)
            handles.append(parameter.register_post_accumulate_grad_hook(reader(squares[parameter_name])))
        seen, step = 0, 0
        while seen < samples:
            task.activate(engine, step)
            for row in _rows(task, step, engine.base.device):
                if seen < samples and (count := task.count(row)):
                    (task.loss(engine, row) / count).backward()
                    seen += 1
            step += 1
    finally:
        for handle in handles:
            handle.remove()
        for parameter in weights.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        for parameter in engine.module(name).parameters():
            parameter.grad = None
    for square in squares.values():
        square /= samples
    return squares


def _rows(task: Task, step: int, device: torch.device):
    """The rows of a step's global batch, each a batch of its own."""
    for batch in task.batches(step):
        for row in range(len(batch["input_ids"])):
            yield {key: value[row : row + 1].to(device) for key, value in batch.items()}
