"""Stored scores compared with the counts that are stored beside them.

precision = tp / predicted, recall = tp / gold, F1 = 2 tp / (gold + predicted), accuracy = right / words, all times 100
(`madx.metrics.scores`). A score that its own counts do not give was altered, whatever else agrees.
"""

import math
from collections.abc import Iterator
from statistics import fmean
from typing import Any

from madx.metrics.scores import EntityScores, Scores, WordScores

NEAR = 1e-6  # percent points: rounding on another machine


def faults_of_scores(scores: Scores) -> list[str]:
    """Every figure that disagrees with the counts, as `f1 is 95.0, its counts give 40.0`; empty when all agree."""
    return list(_faults(scores))


def _faults(scores: Scores) -> Iterator[str]:
    counts = scores.statistics
    right, gold, predicted = (int(array.sum()) for array in (counts.tp, counts.n_gold, counts.n_pred))
    yield from _differing({"correct": right, "gold": gold, "predicted": predicted}, scores)
    if isinstance(scores, EntityScores):
        wanted = {
            "precision": 100.0 * right / predicted if predicted else 0.0,
            "recall": 100.0 * right / gold if gold else 0.0,
            "f1": 200.0 * right / (gold + predicted) if gold + predicted else 0.0,
        }
        yield from _differing(wanted, scores)
        if not _is_percent(scores.token_accuracy):
            yield f"token_accuracy is {scores.token_accuracy!r:.40}, no percentage"
    if isinstance(scores, WordScores):
        yield from _differing({"accuracy": 100.0 * right / gold if gold else 0.0}, scores)
    found = list(_faults_of_types(scores, gold))
    yield from found
    if isinstance(scores, WordScores) and scores.per_type and not found:
        yield from _differing({"macro_f1": fmean(each["f1"] for each in scores.per_type.values())}, scores)


def _faults_of_types(scores: Scores, gold: int) -> Iterator[str]:
    """The faults of the figures by type: F1 is the harmonic mean of precision and recall, supports add up to gold."""
    if not isinstance(scores.per_type, dict):
        yield f"per_type is {scores.per_type!r:.40}, no table"
        return
    support = 0
    for name, each in scores.per_type.items():
        figures = {key: each.get(key) for key in ("precision", "recall", "f1")} if isinstance(each, dict) else {}
        if not figures or not all(map(_is_percent, figures.values())) or type(each.get("support")) is not int:
            yield f"per_type.{name} is {each!r:.80}, no precision, recall, f1 and support"
            continue
        precision, recall, f1 = figures.values()
        harmonic = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        if abs(f1 - harmonic) > NEAR:
            yield f"per_type.{name}.f1 is {f1}, precision and recall give {harmonic}"
        support += each["support"]
    if support != gold:
        yield f"per_type has a support of {support} in all, the counts give {gold}"


def _differing(wanted: dict[str, float], scores: Scores) -> Iterator[str]:
    for name, value in wanted.items():
        found = getattr(scores, name)
        if type(found) not in (int, float) or not abs(found - value) <= NEAR:
            yield f"{name} is {found!r:.40}, its counts give {value}"


def _is_percent(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and -NEAR <= value <= 100 + NEAR
