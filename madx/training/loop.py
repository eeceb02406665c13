"""The training loop: it optimises what a `Trainable` gives it, and everything else stays as it is.

Processes (started by `accelerate launch` or torchrun) share each global batch and take the same steps as one process,
to rounding. Data, masks, dropout and learning rate are functions of the step, and weights and moments are in the
checkpoint: a resumed run ends with the same weights as an undisturbed one.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from madx.errors import ConfigError, TrainingError
from madx.tasks.base import Task
from madx.training.checkpoint import (
    load_optimizer_tensors,
    optimizer_tensors,
    read_checkpoint,
    require_same_run,
    taking_up,
    write_checkpoint,
)
from madx.training.divergence import FIRST_STEPS, divergence
from madx.training.gradients import StepLoss, compute_gradients
from madx.training.kept_weights import KeptWeights, tensors_under
from madx.training.precision import autocast
from madx.training.processes import all_reduce, on_main_process, require_same
from madx.training.progress import ProgressView
from madx.training.run import Run, TrainResult, identity_of
from madx.training.settings import TrainSettings
from madx.training.stop_signals import stop_signals
from madx.training.trainable import Trainable

EVALUATIONS = 10  # in a run, when `evaluate_every` is not set
CHECKPOINT = "checkpoint.safetensors"
LOSS_WINDOW = 50  # steps in the running loss


def train(trainable: Trainable, task: Task, settings: TrainSettings, run: Run) -> TrainResult:
    """Train parameters on a task for a number of optimiser steps, within `trainable.running()`.

    They end with the best weights by the task's metric on its held-out data, with the mean of the last ones, or with
    the last ones, as the settings say. Raises as `madx.training.fit` does.
    """
    loop = Loop(trainable, task, settings, run)
    if run.resume:
        loop.resume()
    return loop.train()


class Loop:
    """The state of a run: step, optimiser, losses, result and the weights kept so far."""

    def __init__(self, trainable: Trainable, task: Task, settings: TrainSettings, run: Run):
        self.trainable, self.task, self.settings, self.run = trainable, task, settings, run
        self.device = trainable.engine.base.device
        self.optimizer = trainable.make_optimizer(settings)
        self.checkpoint = run.folder / CHECKPOINT if run.folder is not None else None
        self.identity = identity_of(run, settings)
        self.step = 0
        self.losses: list[float] = []
        self.first_losses: list[float] = []
        self.result, self.kept = TrainResult(steps=run.steps), KeptWeights()
        self.every = settings.evaluate_every or max(1, run.steps // EVALUATIONS)

    def train(self) -> TrainResult:
        """Make the steps that are left, and end with the weights that the settings ask for."""
        main = PartialState().is_main_process
        self.trainable.broadcast_parameters()
        with ExitStack() as stack:
            view = ProgressView(self.run.title, self.run.steps, start=self.step, shown=self.settings.progress and main)
            stack.enter_context(view)
            asked_to_stop = stack.enter_context(stop_signals())
            board = stack.enter_context(self._tensorboard(main=main))
            stack.callback(self.set_mode, training=False)
            self.set_mode(training=True)
            while self.step < self.run.steps:
                began = time.monotonic()
                done = self.train_step(stop=asked_to_stop())
                self.result.seconds += time.monotonic() - began
                self._after_step(done, view, board)
            if all_reduce(torch.tensor(float(asked_to_stop()), device=self.device)) > 0:
                raise self._stopped()  # asked for in the last step or after it: what follows this run must not begin
        self._choose_weights()
        return self.result

    def train_step(self, *, stop: bool = False) -> StepLoss:
        """Make one optimiser step; stop: whether this process was asked to stop."""
        self.optimizer.zero_grad(set_to_none=False)
        done = compute_gradients(
            self.trainable,
            self.task,
            step=self.step,
            seed=self.run.seed,
            precision=self.settings.precision,
            stop=stop,
        )
        penalty = self.trainable.add_penalty()
        self._update(done.mean, penalty)
        self.step += 1
        return done

    def set_mode(self, *, training: bool) -> None:
        """Training or evaluation, of the module and of the base."""
        self.trainable.set_mode(training=training, base_dropout=self.settings.base_dropout)

    def _update(self, loss: float, penalty: float) -> None:
        """Clip the gradients and change the parameters. Raises TrainingError when the step would spoil them."""
        norm = nn.utils.clip_grad_norm_(self.trainable.parameters, self.settings.clip_norm or math.inf)
        if not math.isfinite(loss + penalty) or not torch.isfinite(norm):
            stored = self.checkpoint is not None and self.checkpoint.exists()
            saved = f"The last good state is in {self.checkpoint}." if stored else "No checkpoint had been written yet."
            added = f" with a penalty of {penalty}" if penalty else ""
            raise TrainingError(
                f"The loss at step {self.step} is {loss}{added} (gradient norm {norm.item()}): training stopped before "
                f"that step could spoil the weights. {saved} Lower train.learning_rate, raise train.warmup, or use "
                "precision fp32."
            )
        factor = self.settings.rate(self.step, self.run.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        self.optimizer.step()
        # the engine knows changed weight deltas by the versions of their tensors, which fused optimisers do not count
        torch.autograd.graph.increment_version(self.trainable.parameters)
        self.trainable.end_step(self.step)

    def _after_step(self, done: StepLoss, view: ProgressView, board: Any) -> None:
        """Evaluate, report and save as often as the settings say.

        Raises KeyboardInterrupt for a run that must stop, TrainingError for one that has diverged.
        """
        self.losses = [*self.losses[1 - LOSS_WINDOW :], done.mean]
        self.first_losses = [*self.first_losses, done.mean][:FIRST_STEPS]
        self.result.tokens += done.tokens
        loss, last = sum(self.losses) / len(self.losses), self.step == self.run.steps
        evaluated = self.step % self.every == 0 or last
        if evaluated:
            self._evaluate(loss, board)
        view.step(self.step, loss=loss, tokens=done.tokens, score=self._score_text())
        fault = self._divergence() if evaluated and self.settings.stop_diverged else None
        if self.step % self.settings.checkpoint_every == 0 or last or done.stop or fault:
            self._save()
        if fault:
            raise TrainingError(self._diverged(fault))
        if done.stop and not last:
            raise self._stopped()

    def _divergence(self) -> str | None:
        return divergence(self.losses, self.first_losses, self.result.history, self.task, steps=self.run.steps)

    def _diverged(self, fault: str) -> str:
        metric, best = self.task.metric, self.result.best.get(self.task.metric, math.nan)
        on = " from here" if self.checkpoint else ""
        return (
            f"Training has diverged at step {self.step} of {self.run.steps}: {fault}. The best {metric} was {best:.2f} "
            f"(step {self.result.best_step}). No module was stored. Give a lower train.learning_rate (it is "
            f"{self.settings.learning_rate:g}) or a longer train.warmup; or train.stop_diverged=false, with which the "
            f"same command goes on{on} and ends with the best weights."
        )

    def _stopped(self) -> KeyboardInterrupt:
        kept = "the same command goes on from there" if self.checkpoint else "nothing was kept: no run folder"
        return KeyboardInterrupt(f"stopped at step {self.step} of {self.run.steps}; {kept}")

    # ---- evaluation ----------------------------------------------------------------------------------------------

    def _evaluate(self, loss: float, board: Any) -> None:
        self.set_mode(training=False)
        scores = self._scores()
        self.set_mode(training=True)
        self.result.history.append({"step": self.step, "loss": loss, **scores})
        if self.task.better(scores[self.task.metric], self.result.best.get(self.task.metric)):
            self.result.best, self.result.best_step = scores, self.step
            self.kept.keep_as_best(self.trainable.state_dict())
        evaluations_left = math.ceil((self.run.steps - self.step) / self.every)
        if evaluations_left < self.settings.average_last > 1:
            self.kept.add_to_mean(self.trainable.state_dict())
        if board is not None:
            for key, value in {"loss": loss, **scores}.items():
                board.add_scalar(key, value, self.step)

    def _scores(self) -> dict[str, float]:
        with autocast(self.settings.precision, self.device):
            return self.task.evaluate(self.trainable.engine)

    def _score_text(self) -> str:
        history = self.result.history
        return f"{self.task.metric} {history[-1][self.task.metric]:.2f}" if history else ""

    def _choose_weights(self) -> None:
        """End with the best weights, or with the mean of the last ones, whose scores are the run's then."""
        if self.kept.averaged > 1:
            self.trainable.load_state_dict(self.kept.mean)
            self.result.best, self.result.best_step = self._scores(), self.run.steps
            row = {"step": self.run.steps, "averaged": self.kept.averaged, **self.result.best}
            self.result.history.append(row)
        elif self.settings.keep_best and self.kept.best is not None:
            self.trainable.load_state_dict(self.kept.best)

    @contextmanager
    def _tensorboard(self, *, main: bool) -> Iterator[Any]:
        """A writer of TensorBoard events in the first process, if they are asked for; else None."""
        if self.settings.tensorboard and self.run.folder is None:
            raise ConfigError(
                "train.tensorboard writes into the folder of the run, but this run has none: give a folder."
            )
        if not (self.settings.tensorboard and main):
            yield None
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("train.tensorboard needs the package tensorboard: pip install tensorboard") from error
        with SummaryWriter(str(self.run.folder)) as writer:
            yield writer

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _save(self) -> None:
        checkpoint = self.checkpoint
        if checkpoint is None:
            return
        state = {
            "step": self.step,
            "losses": self.losses,
            "first_losses": self.first_losses,
            "identity": self.identity,
            "result": vars(self.result),
            "averaged": self.kept.averaged,
        }

        def write() -> None:
            weights = {f"weights.{name}": value for name, value in self.trainable.state_dict().items()}
            tensors = weights | self.kept.tensors() | optimizer_tensors(self.optimizer)
            write_checkpoint(checkpoint, tensors, state)

        on_main_process(write)

    def resume(self) -> None:
        """Go on from the run's checkpoint, when there is one.

        Raises TrainingError for a checkpoint of another run, and when the processes find different ones.
        """
        if self.checkpoint is None:
            return
        found = read_checkpoint(self.checkpoint)
        with taking_up(self.checkpoint):
            step = 0 if found is None else int(found[1]["step"])
        require_same(step, "steps done", self.checkpoint.parent)
        if found is None:
            return
        with taking_up(self.checkpoint):
            self._take_up(self.checkpoint, *found)

    def _take_up(self, path: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
        """Set weights, moments, step and scores to those of a checkpoint. Raises TrainingError for another run's."""
        require_same_run(state["identity"], self.identity, path)
        weights = tensors_under("weights.", tensors)
        stored, here = ({k: list(v.shape) for k, v in ws.items()} for ws in (weights, self.trainable.state_dict()))
        # a module of other components, where the identity does not tell
        require_same_run(stored, here, path)
        self.trainable.load_state_dict(weights)
        self.kept.restore(tensors, averaged=state["averaged"])
        load_optimizer_tensors(self.optimizer, tensors)
        self.step, self.losses = state["step"], state["losses"]
        self.first_losses = state["first_losses"]
        self.result = TrainResult(**state["result"] | {"resumed_from": state["step"]})
