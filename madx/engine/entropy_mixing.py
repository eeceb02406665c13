"""Weights of an average found at test time: those under which the task module is surest of its own predictions.

For each row x of a batch and each site l, the children of the active composition's average have the weights
w(x, l) = softmax(a(x, l)), at first those of the composition. With H(x) the entropy of the predicted labels (in nats), mean
over the row's words, `steps` steps of gradient descent move a:

    a <- a - rate * dH(x) / da

Entropy Minimized Ensemble of Adapters (EMEA), Wang et al. 2021 (arXiv:2109.04877), which takes one sentence at a time. Here
every row has weights of its own, so that a batch gives what its rows give one by one, whatever their company.
Costs a forward and a backward pass for each step, beside the last forward pass. Nothing is drawn at random.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from madx.composition import Average, require_stack
from madx.contract.rules import WeightedChange, WeightedMap
from madx.engine.engine import Engine
from madx.errors import CompositionError

Batch = dict[str, Tensor]


class EntropyMixing:
    """Scores of labels under moved weights; takes the place of `scores`, which gives them under the active composition.

    scores: (engine, batch) -> logits `(words of the batch, labels)`, row after row; batch["first"] `(rows, words)` is below
    0 where a row has no word. Raises CompositionError unless the composition has one average, of modules that compute in
    the forward pass (differences of weights are the same for all rows), with weights above 0.
    """

    def __init__(
        self, engine: Engine, scores: Callable[[Engine, Batch], Tensor], *, steps: int = 1, rate: float = 10.0
    ):
        self.scores, self.steps, self.rate, self.composition = scores, steps, rate, engine.composition
        self.average = _movable(engine)
        self._plan = engine.compile(self.composition)  # its own: the engine's keeps the composition's weights
        averages = (WeightedChange, WeightedMap)
        self._mixed = [
            s for found in self._plan.values() for s in found if isinstance(s, averages) and len(s.branches) > 1
        ]
        for step in self._mixed:
            step.scope = "row"  # its weights belong to whole rows, so the last layer cannot compute single tokens alone
        self.rows = 0  # scored so far, and sums over them:
        self._before = self._after = 0.0
        self._weights = torch.zeros(len(self.average.weights))

    def __call__(self, engine: Engine, batch: Batch) -> Tensor:
        """Logits `(words, labels)` after the steps, without gradients."""
        if engine.composition != self.composition:
            raise CompositionError(
                f"'{self.composition}' was active when its mixing was made, now '{engine.composition}' is."
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
        """For each site with an average the a of the composition's own weights, `(children, rows, 1, 1)`."""
        own = torch.tensor(self.average.weights).log().view(-1, 1, 1, 1)
        return [own.repeat(1, rows, 1, 1).requires_grad_() for _ in self._mixed]

    def entropy(self, engine: Engine, batch: Batch, logits: list[Tensor]) -> Tensor:
        """H of each row `(rows,)` under the weights softmax(logits); a row without words has 0."""
        with engine.under(self._plan):
            self._mix(engine, logits)
            return _row_entropy(self.scores(engine, batch), batch)

    def summary(self) -> dict:
        """What was found: mean entropies before and after, and each child's weight, mean over rows and sites."""
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
        for step, a in zip(self._mixed, logits):
            step.weights = a.softmax(0).to(
                engine.base.device, engine.base.model.dtype
            )  # the step takes child after child


def _movable(engine: Engine) -> Average:
    """The one average of the active composition; raises CompositionError where its weights cannot be moved."""
    composition = require_stack(engine.composition, "mixed for each sentence")
    averages = [item for item in composition.items if isinstance(item, Average)]
    if len(averages) != 1:
        raise CompositionError(
            f"'{composition}' has {len(averages)} averages, and one is needed whose weights are moved, of at least two "
            "modules: e.g. 'average(swa, hau) + ner'."
        )
    names = dict.fromkeys(name for child in averages[0].children for name in child.names())
    if fixed := [name for name in names if "weights" in engine.module(name).units]:
        raise CompositionError(
            f"The weights of '{composition}' cannot be moved for each sentence: {', '.join(fixed)} is a delta of the "
            "base's weights, the same for all. Average modules that compute in the forward pass (bottleneck, invertible)."
        )
    if min(averages[0].weights) <= 0:
        raise CompositionError(
            f"The weights of '{composition}' cannot be moved: they must start above 0, as softmax gives them."
        )
    return averages[0]


def _row_entropy(scores: Tensor, batch: Batch) -> Tensor:
    """The entropy of the labels' distribution in nats, mean over the words of each row, `(rows,)`."""
    log_p = scores.log_softmax(-1)
    of_words = -(log_p.exp() * log_p).sum(-1)
    rows, _ = (batch["first"] >= 0).nonzero(as_tuple=True)
    words = (batch["first"] >= 0).sum(1).clamp_min(1)
    return scores.new_zeros(len(words)).index_add(0, rows, of_words) / words
