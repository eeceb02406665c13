"""The training loop: what moves is given (`madx.training.trainable`), everything else stands still.

Processes (started by `accelerate launch` or torchrun) share each global batch; gradients are summed and divided by the
global count of predictions, so n processes take the same steps as one, to rounding. Data, masks, dropout and learning
rate are functions of the step; weights and moments are in the checkpoint: a resumed run ends with the same weights.
"""

import math
import signal
import threading
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor, nn

from madx.engine import Engine
from madx.errors import ConfigError, TrainingError
from madx.tasks.base import Task
from madx.training.checkpoint import read_checkpoint, require_same_run, write_checkpoint
from madx.training.processes import all_reduce, on_main_process, require_same, same_weights
from madx.training.progress import ProgressView
from madx.training.settings import TrainSettings
from madx.training.trainable import Trainable

EVALUATIONS = 10  # in a run, when `evaluate_every` is not set
CHECKPOINT = "checkpoint.safetensors"
LOSS_WINDOW = 50  # steps in the running loss
#: settings that do not decide which weights a run ends with
UNIMPORTANT = {"progress", "tensorboard", "checkpoint_every", "cache_frozen", "cache_memory_gb", "cache_disk_gb"}


@dataclass
class TrainResult:
    """What a run leaves: the best scores with their step, the last ones, the history of losses and scores, and the time.

    `seconds` and `tokens` count this process since the run's beginning, resumed components included."""

    best: dict = field(default_factory=dict)
    best_step: int = 0
    history: list[dict] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    resumed_from: int | None = None


def run(
    engine: Engine,
    trainable: Trainable,
    task: Task,
    settings: TrainSettings,
    *,
    steps: int,
    seed: int,
    folder: Path | None = None,
    resume: bool = True,
    identity: dict | None = None,
    title: str = "",
) -> TrainResult:
    """Move something on a task for a number of optimiser steps; `moving` is open (`with trainable.opened()`).

    folder: keeps the checkpoint (None: none is written); identity: settings that identify the run, compared on resume.
    Ends with the best weights (by the task's metric on its held-out data). Raises as `madx.training.fit` does.
    """
    loop = _Loop(engine, trainable, task, settings, steps=steps, seed=seed, folder=folder, identity=identity or {})
    if resume:
        loop.resume()
    return loop.go(title)


def run_identity(settings: TrainSettings, *, steps: int, seed: int, **more) -> dict:
    """What must agree for a checkpoint to be taken up: everything that decides which weights a run ends with."""
    return {**more, "steps": steps, "seed": seed, **settings.model_dump(exclude=UNIMPORTANT)}


class _Loop:
    def __init__(self, engine, trainable: Trainable, task, settings, *, steps, seed, folder, identity):
        self.engine, self.trainable, self.task, self.settings, self.steps = engine, trainable, task, settings, steps
        self.processes = PartialState()
        self.parameters = trainable.parameters
        self.optimizer = trainable.optimizer(settings)
        self.checkpoint = Path(folder) / CHECKPOINT if folder is not None else None
        self.run = run_identity(settings, steps=steps, seed=seed, **identity)
        self.seed, self.step, self.losses = seed, 0, []
        self.result = TrainResult(steps=steps)
        self.best_weights: dict[str, Tensor] | None = None
        self.every = settings.evaluate_every or max(1, steps // EVALUATIONS)
        self.mean, self.averaged = {}, 0  # of the weights at the last evaluations, and of how many

    # ---- the loop ------------------------------------------------------------------------------------------------

    def go(self, title: str) -> TrainResult:
        shown = self.settings.progress and self.processes.is_main_process
        score, stop = self._score_text(), False
        self._same_weights()
        with ExitStack() as stack:
            view = stack.enter_context(ProgressView(title, self.steps, start=self.step, shown=shown))
            stopped = stack.enter_context(_stop_signals())
            board = stack.enter_context(self._tensorboard())
            self._mode(training=True)
            stack.callback(self._mode, training=False)
            while self.step < self.steps:
                began = time.monotonic()
                loss, tokens, stop = self._step(stopped())
                self.losses = [*self.losses[1 - LOSS_WINDOW :], loss]
                self.step += 1
                self.result.seconds += time.monotonic() - began
                self.result.tokens += tokens
                running = sum(self.losses) / len(self.losses)
                if self.step % self.every == 0 or self.step == self.steps:
                    score = self._evaluate(running, board)
                view.step(self.step, loss=running, tokens=tokens, score=score)
                if self.step % self.settings.checkpoint_every == 0 or self.step == self.steps or stop:
                    self._save()
                if stop and self.step < self.steps:
                    raise self._stopped()
            if all_reduce(torch.tensor(float(stopped()), device=self.engine.base.device)) > 0:
                raise self._stopped()  # asked for in the last step or after it: what follows this run is not to begin
        if self.averaged > 1:
            self._end_with_the_mean()
        elif self.settings.keep_best and self.best_weights is not None:
            self.trainable.load(self.best_weights)
        return self.result

    def _stopped(self) -> KeyboardInterrupt:
        kept = "the same command goes on from there" if self.checkpoint else "nothing was kept: no run folder"
        return KeyboardInterrupt(f"stopped at step {self.step} of {self.steps}; {kept}")

    def _step(self, stop: bool) -> tuple[float, int, bool]:
        """One optimiser step; returns the mean loss of the global batch, the tokens this process read, and whether any
        process was asked to stop: all must stop after the same step, or those left would wait for ever."""
        process = self.processes
        device = self.engine.base.device
        # for dropout; data and masks have seeds of their own
        _seed((self.seed * 1_000_003 + self.step * 1009 + process.process_index) % 2**63, device)
        batches = self.task.batches(self.step, process_index=process.process_index, process_count=process.num_processes)
        self.task.activate(self.engine, self.step)
        self.trainable.begins(self.step, self.seed)
        batches = [{k: v.to(device, non_blocking=True) for k, v in batch.items()} for batch in batches]
        counts = torch.tensor([sum(self.task.count(b) for b in batches), stop], dtype=torch.float32, device=device)
        total, stop = all_reduce(counts).unbind()
        total = total.clamp_min(1.0)
        summed = torch.zeros((), device=device)
        self.optimizer.zero_grad(set_to_none=False)
        for batch in batches:
            with self._precision():
                loss = self.task.loss(self.engine, batch)
            (loss / total).backward()
            summed += loss.detach().float()
        mean = (all_reduce(summed) / total).item()
        self._share_gradients()
        self.trainable.penalise()
        self._move(mean)
        return mean, sum(int(b["input_ids"].numel()) for b in batches), bool(stop)

    def _move(self, loss: float) -> None:
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm or math.inf)
        if not math.isfinite(loss) or not torch.isfinite(norm):
            saved = (
                f"The last good state is in {self.checkpoint}."
                if self.checkpoint and self.checkpoint.exists()
                else ("No checkpoint had been written yet.")
            )
            raise TrainingError(
                f"The loss at step {self.step} is {loss} (gradient norm {norm.item()}): training stopped before that step "
                f"could spoil the weights. {saved} Lower train.learning_rate, raise train.warmup, or use precision fp32."
            )
        factor = self.settings.rate(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.step()
        self.trainable.ends(self.step)

    def _share_gradients(self) -> None:
        """Sum the gradients of all processes, in one message."""
        if self.processes.num_processes == 1:
            return
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        flat = all_reduce(torch.cat([g.reshape(-1) for g in grads]))
        for parameter, grad in zip(self.parameters, flat.split([g.numel() for g in grads])):
            parameter.grad = grad.view_as(parameter).clone()

    def _same_weights(self) -> None:
        """Every process starts from the first one's weights, whatever seed the caller's own code had."""
        if self.processes.num_processes > 1:
            same_weights(self.parameters)
            self.trainable.moved()

    def _precision(self):
        if self.settings.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.engine.base.device.type, dtype=torch.bfloat16)

    def _mode(self, *, training: bool) -> None:
        self.trainable.mode(training=training)
        self.engine.base.model.train(training and self.settings.base_dropout)

    # ---- looking and saving --------------------------------------------------------------------------------------

    def _evaluate(self, loss: float, board) -> str:
        self._mode(training=False)
        with self._precision():
            scores = self.task.evaluate(self.engine)
        self._mode(training=True)
        self.result.history.append({"step": self.step, "loss": loss, **scores})
        if self.task.better(scores[self.task.metric], self.result.best.get(self.task.metric)):
            self.result.best, self.result.best_step = scores, self.step
            self.best_weights = {k: v.detach().clone() for k, v in self.trainable.state().items()}
        if math.ceil((self.steps - self.step) / self.every) < self.settings.average_last > 1:
            self._add_to_the_mean()
        if board is not None:
            for key, value in {"loss": loss, **scores}.items():
                board.add_scalar(key, value, self.step)
        return self._score_text()

    def _add_to_the_mean(self) -> None:
        self.averaged += 1
        for key, value in self.trainable.state().items():
            if key not in self.mean:
                self.mean[key] = value.detach().clone()
            elif value.is_floating_point():
                self.mean[key] += (value.detach() - self.mean[key]) / self.averaged

    def _end_with_the_mean(self) -> None:
        """Take the mean of the weights at the last evaluations, and its scores for the run's."""
        self.trainable.load(self.mean)
        with self._precision():
            self.result.best, self.result.best_step = self.task.evaluate(self.engine), self.steps
        self.result.history.append({"step": self.steps, "averaged": self.averaged, **self.result.best})

    def _score_text(self) -> str:
        history = self.result.history
        return f"{self.task.metric} {history[-1][self.task.metric]:.2f}" if history else ""

    @contextmanager
    def _tensorboard(self):
        if not (self.settings.tensorboard and self.checkpoint and self.processes.is_main_process):
            yield None
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("train.tensorboard needs the package tensorboard: pip install tensorboard") from error
        with SummaryWriter(str(self.checkpoint.parent)) as writer:
            yield writer

    def _save(self) -> None:
        if self.checkpoint is not None:
            on_main_process(self._write)

    def _write(self) -> None:
        tensors = {f"module.{k}": v for k, v in self.trainable.state().items()}
        tensors |= {f"best.{k}": v for k, v in (self.best_weights or {}).items()}
        tensors |= {f"mean.{k}": v for k, v in self.mean.items()}
        for i, parameter in enumerate(self._ordered()):
            moments = self.optimizer.state.get(parameter, {})
            tensors |= {f"adam.{i}.{k}": v for k, v in moments.items()}
        state = {
            "step": self.step,
            "losses": self.losses,
            "run": self.run,
            "result": vars(self.result),
            "averaged": self.averaged,
        }
        write_checkpoint(self.checkpoint, tensors, state)

    def resume(self) -> None:
        """Take up the state of the run's checkpoint, when there is one."""
        if self.checkpoint is None:
            return
        found = read_checkpoint(self.checkpoint)
        require_same(found[1]["step"] if found is not None else 0, "steps done", self.checkpoint.parent)
        if found is None:
            return
        tensors, state = found
        require_same_run(state["run"], self.run, self.checkpoint)

        def group(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        here, stored = ({k: list(v.shape) for k, v in ts.items()} for ts in (self.trainable.state(), group("module.")))
        require_same_run(stored, here, self.checkpoint)  # a module of other components, where `run` does not tell
        self.trainable.load(group("module."))
        self.best_weights = group("best.") or None
        self.mean, self.averaged = group("mean."), state.get("averaged", 0)
        for i, parameter in enumerate(self._ordered()):
            moments = group(f"adam.{i}.")
            if moments:
                stays = (
                    () if self.optimizer.defaults.get("fused") else ("step",)
                )  # a fused one counts its steps beside the weights
                self.optimizer.state[parameter] = {
                    k: v if k in stays else v.to(parameter.device) for k, v in moments.items()
                }
        self.step, self.losses = state["step"], state["losses"]
        self.result = TrainResult(**state["result"] | {"resumed_from": state["step"]})

    def _ordered(self) -> list[nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]


def _seed(seed: int, device: torch.device) -> None:
    """Seed the random numbers of a step. `torch.manual_seed` would, without a GPU, keep a stack trace of every call."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


@contextmanager
def _stop_signals():
    """Turn the first Ctrl-C or SIGTERM into a wish to stop after the current step; a second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
