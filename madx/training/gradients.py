"""The gradients of one optimiser step, shared by all processes."""

from dataclasses import dataclass

import torch
from accelerate import PartialState
from torch import nn

from madx.tasks.base import Task
from madx.training.consistency import add_consistent_gradients
from madx.training.precision import autocast
from madx.training.processes import all_reduce
from madx.training.trainable import Trainable


@dataclass(frozen=True)
class StepLoss:
    """The mean loss over all predictions of the global batch; the tokens that this process read; whether any process
    was asked to stop: all of them stop after the same step, or those left would wait for ever."""

    mean: float
    tokens: int
    stop: bool


def compute_gradients(
    trainable: Trainable, task: Task, *, step: int, seed: int, precision: str, stop: bool = False
) -> StepLoss:
    """Add the gradient of a step's mean loss to `.grad` of the trainable parameters, the same in every process.

    Each process computes its share of the global batch; gradients are summed and divided by the global number of
    predictions, so that n processes take the same steps as one, to rounding.

    Args:
        trainable: its `running` is entered, and its gradients are zero or None.
        task: gives the batches of the step and their loss.
        step, seed: decide data, masks and dropout.
        precision: `fp32` or `bf16`.
        stop: whether this process was asked to stop.
    """
    process, engine = PartialState(), trainable.engine
    device = engine.base.device
    # for dropout; data and masks have seeds of their own
    _seed_generators((seed * 1_000_003 + step * 1009 + process.process_index) % 2**63, device)
    batches = task.batches(step, process_index=process.process_index, process_count=process.num_processes)
    task.activate(engine, step)
    trainable.begin_step(step, seed)
    batches = [{k: v.to(device, non_blocking=True) for k, v in batch.items()} for batch in batches]
    counts = torch.tensor([sum(task.count(b) for b in batches), stop], dtype=torch.float32, device=device)
    predictions, stops = all_reduce(counts).unbind()
    predictions = predictions.clamp_min(1.0)
    summed = torch.zeros((), device=device)
    weight = trainable.consistency()
    for batch in batches:
        if weight:
            loss = add_consistent_gradients(
                trainable, task, batch, weight=weight, predictions=predictions, precision=precision
            )
        else:
            with autocast(precision, device):
                loss = task.loss(engine, batch)
            (loss / predictions).backward()
        summed += loss.detach().float()
    mean = (all_reduce(summed) / predictions).item()
    _sum_over_processes(trainable.parameters)
    return StepLoss(mean, sum(b["input_ids"].numel() for b in batches), bool(stops))


def _sum_over_processes(parameters: list[nn.Parameter]) -> None:
    """Sum the gradients of all processes, in one message."""
    if PartialState().num_processes == 1:
        return
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = all_reduce(torch.cat([g.reshape(-1) for g in gradients]))
    for parameter, gradient in zip(parameters, flat.split([g.numel() for g in gradients])):
        parameter.grad = gradient.view_as(parameter).clone()


def _seed_generators(seed: int, device: torch.device) -> None:
    """Seed the random numbers of a step. Without a GPU `torch.manual_seed` would keep a stack trace of every call."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
