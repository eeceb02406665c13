"""Divergence: a run whose loss has risen above that of its first steps, or whose score never leaves 0, is stopped.

Such a run ends in a module that predicts nothing, and only the score on development data would tell. Two rules, tested
at each evaluation:

    loss    the mean of the last steps is above 1.1 * first + 0.1, with first the median of the first 10 steps
    score   half of the run and 100 steps are done, and the score was exactly 0 at each of three or more evaluations

The second rule holds for scores of which more is better (F1, accuracy). A high learning rate can leave a tagger that
predicts no entity with a small loss, so the loss alone does not show it.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

from madx.tasks.base import Task

FIRST_STEPS = 10
RISE, MARGIN = 1.1, 0.1  # the margin lets a run that begins near a loss of 0 vary
STEPS, EVALUATIONS = 100, 3


def divergence(
    losses: Sequence[float], first: Sequence[float], history: Sequence[dict[str, Any]], task: Task, *, steps: int
) -> str | None:
    """Describe why a run has diverged, in a sentence without its end; None: it has not.

    Args:
        losses: those of the last steps.
        first: those of the first `FIRST_STEPS` steps.
        history: `step`, `loss` and scores of each evaluation so far.
        task: its metric is the score.
        steps: length of the run.
    """
    if not history:
        return None
    done = history[-1]["step"]
    if done >= 3 * FIRST_STEPS and losses and first:
        now, began = sum(losses) / len(losses), median(first)
        if now > RISE * began + MARGIN:
            return (
                f"the mean loss of the last {len(losses)} steps is {now:.3f}, that of the first steps was {began:.3f}"
            )
    scores = [row[task.metric] for row in history]
    late = done >= STEPS and 2 * done >= steps and len(scores) >= EVALUATIONS
    if task.higher_is_better and late and not any(scores):
        return f"{task.metric} on the development data was 0 at all of {len(scores)} evaluations"
    return None
