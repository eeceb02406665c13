"""Entropy mixing: optimises the weights of an average at test time, so that the predictions have a low entropy.

For each row x of a batch and each site l, the children of the active composition's average have the weights
w(x, l) = softmax(a(x, l)), which start at those of the composition. Let H(x) be the entropy of the predicted labels (in
nats), averaged over the row's words. Then `steps` steps of gradient descent update a:

    a <- a - rate * dH(x) / da

The method is Entropy Minimized Ensemble of Adapters (EMEA), Wang et al. 2021 (arXiv:2109.04877), which processes one
sentence at a time. Here every row has its own weights, so the result for a row does not depend on the rest of its
batch. Each step costs a forward and a backward pass, and one forward pass follows. The method uses no random numbers.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from madx.composition import Average, require_stack
from madx.contract.rules import WeightedChange, WeightedMap
from madx.engine.engine import Engine
from madx.engine.plan import Plan
from madx.errors import CompositionError

Batch = dict[str, Tensor]


class EntropyMixing:
    """Computes scores of labels under optimised weights.

    Raises CompositionError unless the composition has exactly one average, with weights above 0, of modules without
    weight deltas (which are the same for all rows).

    Args:
        engine: its active composition has the average.
        scores: (engine, batch) -> scores `(words of the batch, labels)` under the active composition, row after row;
            batch["first"] `(rows, words)` is negative where a row has no word.
        steps: of gradient descent.
        rate: the step size.
    """

    def __init__(
        self, engine: Engine, scores: Callable[[Engine, Batch], Tensor], *, steps: int = 1, rate: float = 10.0
    ):
        self.scores, self.steps, self.rate, self.composition = scores, steps, rate, engine.composition
        self.average = _trainable_average(engine)
        # a plan of its own, because the engine's plan keeps the composition's weights; routes have been refused above
        self._plan = cast(Plan, engine.compile(self.composition))
        averages = (WeightedChange, WeightedMap)
        self._mixed = [
            s for found in self._plan.values() for s in found if isinstance(s, averages) and len(s.branches) > 1
        ]
        for step in self._mixed:
            step.scope = "row"  # the weights belong to whole rows, so the last layer must compute all positions
        self.rows = 0  # the number of rows scored so far; the next three are sums over them
        self._before = self._after = 0.0
        self._weights = torch.zeros(len(self.average.weights))

    def __call__(self, engine: Engine, batch: Batch) -> Tensor:
        """Compute scores `(words, labels)` after the steps, without gradients."""
        if engine.composition != self.composition:
            raise CompositionError(
                f"'{self.composition}' was active when its mixing was made, now '{engine.composition}' is active. "
                f"Activate '{self.composition}' again, or make a new EntropyMixing."
            )
        rows = len(batch["first"])
        logits = self.start(rows)
        with engine.under(self._plan):
            for step in range(self.steps):
                with torch.enable_grad():
                    entropy = self.entropy(engine, batch, logits)
                    gradients = torch.autograd.grad(entropy.sum(), logits)
                if step == 0:
                    self._before += entropy.sum().item()
                logits = [(a - self.rate * g).detach().requires_grad_() for a, g in zip(logits, gradients)]
            with torch.no_grad():
                self._mix(engine, logits)
                scored = self.scores(engine, batch)
        self.rows += rows
        self._after += _row_entropy(scored, batch).sum().item()
        self._weights += sum(a.detach().softmax(0).sum(dim=(1, 2, 3)).cpu() for a in logits) / len(logits)
        return scored

    def start(self, rows: int) -> list[Tensor]:
        """Return a for the composition's own weights, `(children, rows, 1, 1)`, for each site with an average."""
        own = torch.tensor(self.average.weights).log().view(-1, 1, 1, 1)
        return [own.repeat(1, rows, 1, 1).requires_grad_() for _ in self._mixed]

    def entropy(self, engine: Engine, batch: Batch, logits: list[Tensor]) -> Tensor:
        """Compute H of each row, `(rows,)`, under the weights softmax(logits); a row without words has 0."""
        with engine.under(self._plan):
            self._mix(engine, logits)
            return _row_entropy(self.scores(engine, batch), batch)

    def summary(self) -> dict[str, Any]:
        """Return the mean entropies before and after, and each child's weight, averaged over rows and sites."""
        rows = max(self.rows, 1)
        weights = {str(child): w / rows for child, w in zip(self.average.children, self._weights.tolist())}
        return {
            "steps": self.steps,
            "rate": self.rate,
            "entropy_before": self._before / rows,
            "entropy_after": self._after / rows,
            "weights": weights,
        }

    def _mix(self, engine: Engine, logits: list[Tensor]) -> None:
        dtype = next(engine.base.encoder.parameters()).dtype
        for step, a in zip(self._mixed, logits):
            step.weights = a.softmax(0).to(engine.base.device, dtype)


def _trainable_average(engine: Engine) -> Average:
    """Return the average of the active composition. Raises CompositionError if its weights cannot be optimised."""
    composition = require_stack(engine.composition, "mixed for each sentence")
    averages = [item for item in composition.items if isinstance(item, Average)]
    if len(averages) != 1:
        raise CompositionError(
            f"'{composition}' has {len(averages)} averages, and exactly one is needed, of at least two modules: e.g. "
            "'average(swa, hau) + ner'."
        )
    names = dict.fromkeys(name for child in averages[0].children for name in child.names())
    if fixed := [name for name in names if "weights" in engine.module(name).units]:
        raise CompositionError(
            f"The weights of '{composition}' cannot differ between sentences: {', '.join(fixed)} is a weight delta, "
            "which is the same for all. Average modules that compute in the forward pass (bottleneck, invertible)."
        )
    if min(averages[0].weights) <= 0:
        raise CompositionError(
            f"The weights of '{composition}' cannot be optimised: they must start above 0, since softmax gives them."
        )
    return averages[0]


def _row_entropy(scores: Tensor, batch: Batch) -> Tensor:
    """Compute the entropy of the labels' distribution in nats, averaged over the words of each row, `(rows,)`."""
    log_p = scores.log_softmax(-1)
    of_words = -(log_p.exp() * log_p).sum(-1)
    rows, _ = (batch["first"] >= 0).nonzero(as_tuple=True)
    words = (batch["first"] >= 0).sum(1).clamp_min(1)
    return scores.new_zeros(len(words)).index_add(0, rows, of_words) / words
