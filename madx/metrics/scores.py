"""Scores of tagged sentences, and the counts per sentence that a bootstrap needs. All scores are percent points,
0..100.

Entities. An entity is correct when its type, its first and its last word equal those of a gold entity. With tp correct
entities, summed over all sentences and types ("micro"):

    precision = tp / predicted    recall = tp / gold    F1 = 2 tp / (gold + predicted)

Tags are read by `madx.data.labelled.spans`: strictly, where an `I-` that continues nothing is no entity, as seqeval
with `mode="strict", scheme=IOB2` (Nakayama 2018); or leniently, where it begins one, as conlleval and seqeval by
default do.

Words, each with one tag. accuracy = right / words. It equals the micro F1 in which every word is gold and predicted
once, so the same counts and the same bootstrap serve both. Macro F1 is the mean of the F1 of all tags that are gold or
predicted.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

import numpy as np

from madx.data.labelled.spans import Scoring, spans
from madx.data.labelled.tags import is_iob2
from madx.errors import DataError


@dataclass(frozen=True, eq=False)
class Statistics:
    """Correct (`tp`), gold and predicted entities of each sentence: read-only int64 arrays of shape `(sentences,)`.

    They are sufficient for F1: any resample of sentences is scored by sums over them. Raises DataError on arrays that
    are not whole numbers, differ in length, or have more correct than gold or predicted entities.
    """

    tp: np.ndarray
    n_gold: np.ndarray
    n_pred: np.ndarray

    def __post_init__(self) -> None:
        for name in ("tp", "n_gold", "n_pred"):
            raw = np.asarray(getattr(self, name))
            if raw.ndim != 1 or (raw.size and raw.dtype.kind not in "iu"):
                raise DataError(
                    f"statistics.{name} must be one whole number per sentence, got shape {raw.shape}, type {raw.dtype}"
                )
            array = raw.astype(np.int64)  # a copy: the caller's own array stays writable
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if not len(self.tp) == len(self.n_gold) == len(self.n_pred):
            raise DataError(
                f"statistics of different lengths: tp {len(self.tp)}, n_gold {len(self.n_gold)}, n_pred "
                f"{len(self.n_pred)}; they must describe the same sentences"
            )
        wrong = np.flatnonzero((self.tp < 0) | (self.tp > self.n_gold) | (self.tp > self.n_pred))
        if wrong.size:
            i = int(wrong[0])
            raise DataError(
                f"sentence {i}: {self.tp[i]} correct entities of {self.n_gold[i]} gold and "
                f"{self.n_pred[i]} predicted; correct must lie between 0 and the smaller of both"
            )

    def __len__(self) -> int:
        return len(self.tp)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Statistics):
            return NotImplemented
        return all(np.array_equal(getattr(self, n), getattr(other, n)) for n in ("tp", "n_gold", "n_pred"))


@dataclass(frozen=True)
class EntityScores:
    """Scores of one prediction of entities.

    precision, recall, f1: over all types, micro. per_type: type, sorted by name -> {precision, recall, f1, support};
    support is the number of gold entities of the type. gold, predicted, correct: numbers of entities. token_accuracy:
    the share of words with the gold tag. statistics: the counts of each sentence.
    """

    #: what is counted, in files and texts; the figures, the deciding one first; the deciding one's name in titles, in
    #: short
    kind: ClassVar[str] = "entities"
    metrics: ClassVar[tuple[str, ...]] = ("f1", "precision", "recall", "token_accuracy")
    measure: ClassVar[str] = "entity F1"
    short: ClassVar[str] = "F1"

    precision: float
    recall: float
    f1: float
    per_type: dict[str, dict[str, float]]
    gold: int
    predicted: int
    correct: int
    token_accuracy: float
    statistics: Statistics

    @property
    def sentences(self) -> int:
        """The number of sentences."""
        return len(self.statistics)

    def summary(self) -> dict[str, float]:
        """The four figures that a training run follows."""
        return {name: getattr(self, name) for name in self.metrics}

    def overall(self) -> dict[str, float]:
        """The figures of all types together, as those of one type in `per_type`."""
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1, "support": self.gold}


@dataclass(frozen=True)
class WordScores:
    """Scores of one prediction of a tag for each word.

    accuracy, macro_f1: see the top of the file. per_type: tag, sorted by name -> {precision, recall, f1, support};
    support is the number of words with that gold tag. gold, predicted: the number of words. correct: the number of
    words with the gold tag. statistics: the counts of each sentence.
    """

    kind: ClassVar[str] = "words"
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")
    measure: ClassVar[str] = "accuracy"
    short: ClassVar[str] = "accuracy"

    accuracy: float
    macro_f1: float
    per_type: dict[str, dict[str, float]]
    gold: int
    predicted: int
    correct: int
    statistics: Statistics

    @property
    def sentences(self) -> int:
        """The number of sentences."""
        return len(self.statistics)

    def summary(self) -> dict[str, float]:
        """The two figures that a training run follows."""
        return {name: getattr(self, name) for name in self.metrics}

    def overall(self) -> dict[str, float]:
        """The figures of all tags together: with one tag for each word all three are the accuracy."""
        return dict.fromkeys(("precision", "recall", "f1"), self.accuracy) | {"support": self.gold}


Scores = EntityScores | WordScores
#: the classes of scores by their `kind`
KINDS: dict[str, type[Scores]] = {kind.kind: kind for kind in (EntityScores, WordScores)}


def entity_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], *, scoring: Scoring = "strict"
) -> EntityScores:
    """Score predicted IOB2 tags against gold ones; sentence i of both lists has the same words.

    scoring: how an I- that continues nothing is read, `strict` or `lenient`; see the top of the file.

    Equal to seqeval's micro average and per-type figures times 100, with zero_division=0: precision with nothing
    predicted, recall with nothing to find and F1 with neither are 0.

    >>> scores = entity_scores([["B-PER", "I-PER", "O"]], [["B-PER", "I-PER", "B-LOC"]])
    >>> scores.precision, scores.recall, scores.per_type["LOC"]["support"]
    (50.0, 100.0, 0)

    Raises DataError when the lists or two sentences differ in length, when there are no words, or on a tag that is not
    IOB2; ConfigError for an unknown reading.
    """
    _check(gold, predicted)
    _check_iob2(gold, predicted)
    found_gold, found_pred = ([set(spans(tags, scoring)) for tags in side] for side in (gold, predicted))
    hits = [g & p for g, p in zip(found_gold, found_pred)]
    per_type = _per_type(*(Counter(t for s in found for t, _, _ in s) for found in (hits, found_gold, found_pred)))
    statistics = Statistics(
        *(np.array([len(s) for s in found], dtype=np.int64) for found in (hits, found_gold, found_pred))
    )
    tp, n_gold, n_pred = (int(a.sum()) for a in (statistics.tp, statistics.n_gold, statistics.n_pred))
    precision, recall, f1 = _prf(tp, n_gold, n_pred)
    same = sum(a == b for g, p in zip(gold, predicted) for a, b in zip(g, p))
    return EntityScores(
        precision=precision,
        recall=recall,
        f1=f1,
        per_type=per_type,
        gold=n_gold,
        predicted=n_pred,
        correct=tp,
        token_accuracy=100.0 * same / sum(map(len, gold)),
        statistics=statistics,
    )


def word_scores(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> WordScores:
    """Score one predicted tag for each word against the gold one; sentence i of both lists has the same words.

    Macro F1 is scikit-learn's: the plain mean of F1 over all tags that occur, gold or predicted.

    >>> scores = word_scores([["NOUN", "VERB"], ["NOUN"]], [["NOUN", "NOUN"], ["NOUN"]])
    >>> round(scores.accuracy, 1), scores.macro_f1, scores.per_type["VERB"]["support"]
    (66.7, 40.0, 1)

    Raises DataError when the lists or two sentences differ in length, or when there are no words.
    """
    _check(gold, predicted)
    words = np.array([len(s) for s in gold], dtype=np.int64)
    right = np.array([sum(a == b for a, b in zip(g, p)) for g, p in zip(gold, predicted)], dtype=np.int64)
    hits = Counter(a for g, p in zip(gold, predicted) for a, b in zip(g, p) if a == b)
    golds, found = (Counter(t for s in side for t in s) for side in (gold, predicted))
    per_type = _per_type(hits, golds, found)
    total, correct = int(words.sum()), int(right.sum())
    return WordScores(
        accuracy=100.0 * correct / total,
        macro_f1=fmean(f["f1"] for f in per_type.values()),
        per_type=per_type,
        gold=total,
        predicted=total,
        correct=correct,
        statistics=Statistics(tp=right, n_gold=words, n_pred=words),
    )


def _per_type(hits: Counter[str], gold: Counter[str], predicted: Counter[str]) -> dict[str, dict[str, float]]:
    """The figures of each type, sorted by name."""
    found = {}
    for tag in sorted(gold.keys() | predicted.keys()):
        precision, recall, f1 = _prf(hits[tag], gold[tag], predicted[tag])
        found[tag] = {"precision": precision, "recall": recall, "f1": f1, "support": gold[tag]}
    return found


def _prf(tp: int, n_gold: int, n_pred: int) -> tuple[float, float, float]:
    """Precision, recall, F1 in percent points; 0 where the denominator is 0 (seqeval's zero_division=0)."""
    return (
        100.0 * tp / n_pred if n_pred else 0.0,
        100.0 * tp / n_gold if n_gold else 0.0,
        200.0 * tp / (n_gold + n_pred) if n_gold + n_pred else 0.0,
    )


def _check(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    """Raises DataError unless both sides have a tag for each word of the same sentences."""
    for name, sentences in (("gold", gold), ("predicted", predicted)):
        for i, sentence in enumerate(sentences):
            if isinstance(sentence, str):
                raise DataError(f"{name} sentence {i} is the text {sentence!r}; expected a list of tags per sentence")
    if len(gold) != len(predicted):
        raise DataError(
            f"{len(gold)} gold but {len(predicted)} predicted sentences; score the same sentences, in the same order"
        )
    for i, (g, p) in enumerate(zip(gold, predicted)):
        if len(g) != len(p):
            raise DataError(
                f"sentence {i}: {len(g)} gold but {len(p)} predicted tags; a prediction needs one tag per "
                "word, windows of a long sentence joined again"
            )
    if not any(len(s) for s in gold):
        raise DataError("no words to score; check that the test file is not empty")


def _check_iob2(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    for name, sentences in (("gold", gold), ("predicted", predicted)):
        wrong = {t for s in sentences for t in s if not is_iob2(t)}
        if wrong:
            i = next(i for i, s in enumerate(sentences) if any(t in wrong for t in s))
            raise DataError(
                f"{name} sentence {i}: tags that are not IOB2: {', '.join(sorted(map(repr, wrong))[:8])}. "
                "Allowed: O, B-TYPE, I-TYPE; convert IOB1 or BIOES first"
            )
