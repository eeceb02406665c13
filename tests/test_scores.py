import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, classification_report
from seqeval.scheme import IOB2

from madx.errors import ConfigError, DataError
from madx.metrics.scores import Statistics, entity_scores
from madx.metrics.significance import resampled_f1

TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC"]
sentence = st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), max_size=9)
pairs = st.lists(sentence, min_size=1, max_size=6).filter(any)


def split(sentences):
    return [[g for g, _ in s] for s in sentences], [[p for _, p in s] for s in sentences]


#: the two readings, with the arguments by which seqeval has them
READINGS = {"strict": {"mode": "strict", "scheme": IOB2}, "lenient": {}}


@pytest.mark.parametrize("scoring", READINGS)
@given(sentences=pairs)
@settings(derandomize=True, max_examples=300, deadline=None)
def test_equals_seqeval(scoring, sentences):
    gold, predicted = split(sentences)
    scores = entity_scores(gold, predicted, scoring=scoring)
    assert scores.token_accuracy == pytest.approx(100 * accuracy_score(gold, predicted))
    if not scores.gold + scores.predicted:  # seqeval's report fails without any entity
        assert scores.per_type == {} and (scores.precision, scores.recall, scores.f1) == (0, 0, 0)
        return
    report = classification_report(gold, predicted, output_dict=True, zero_division=0, **READINGS[scoring])
    micro = report["micro avg"]
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx(
        [100 * float(micro[m]) for m in ("precision", "recall", "f1-score")]
    )
    assert scores.gold == micro["support"]
    assert set(scores.per_type) == {name for name in report if not name.endswith("avg")}
    for name, figures in scores.per_type.items():
        assert [figures[m] for m in ("precision", "recall", "f1")] == pytest.approx(
            [100 * float(report[name][m]) for m in ("precision", "recall", "f1-score")]
        )
        assert figures["support"] == report[name]["support"]


@pytest.mark.parametrize("scoring", READINGS)
@given(sentences=pairs)
@settings(derandomize=True, max_examples=50, deadline=None)
def test_statistics_add_up_sentence_by_sentence(scoring, sentences):
    gold, predicted = split(sentences)
    scores = entity_scores(gold, predicted, scoring=scoring)
    s = scores.statistics
    assert (s.tp.sum(), s.n_gold.sum(), s.n_pred.sum()) == (scores.correct, scores.gold, scores.predicted)
    for i, (g, p) in enumerate(zip(gold, predicted)):
        if g:
            alone = entity_scores([g], [p], scoring=scoring)
            assert (s.tp[i], s.n_gold[i], s.n_pred[i]) == (alone.correct, alone.gold, alone.predicted)


def test_by_hand():
    gold = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"]]
    predicted = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "B-ORG"]]  # PER cut short, one LOC too many
    scores = entity_scores(gold, predicted)
    assert (scores.gold, scores.predicted, scores.correct) == (3, 4, 2)
    assert (scores.precision, scores.recall, scores.f1) == pytest.approx((50.0, 200 / 3, 400 / 7))
    assert scores.per_type["PER"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1}
    assert scores.per_type["LOC"] == pytest.approx({"precision": 50.0, "recall": 100.0, "f1": 200 / 3, "support": 1})
    assert scores.token_accuracy == pytest.approx(100 * 4 / 6) and scores.sentences == 2


@pytest.mark.parametrize("scoring", READINGS)
@given(sentences=pairs)
@settings(derandomize=True, max_examples=50, deadline=None)
def test_the_bootstrap_scores_the_whole_set_as_the_scores_do(scoring, sentences):
    gold, predicted = split(sentences)
    scores = entity_scores(gold, predicted, scoring=scoring)
    whole, _ = resampled_f1([scores.statistics], samples=100, seed=0)
    assert whole[0] == pytest.approx(scores.f1)


@pytest.mark.parametrize("scoring, counts", [("strict", (1, 0, 0)), ("lenient", (1, 1, 1))])
def test_an_inside_tag_that_continues_nothing(scoring, counts):
    scores = entity_scores([["B-PER", "O"]], [["I-PER", "O"]], scoring=scoring)
    assert (scores.gold, scores.predicted, scores.correct) == counts
    assert scores == entity_scores([["B-PER", "O"]], [["I-PER", "O"]], scoring=scoring)


def test_types_with_blanks_and_hyphens_are_scored_as_they_are_written():
    gold = [["B-Person name", "I-Person name", "O"], ["B-PER", "B-PER-", "B-Ọ̀yọ́"]]
    predicted = [["B-Person name", "I-Person name", "O"], ["B-PER-", "B-PER-", "B-Ọ̀yọ́"]]
    scores = entity_scores(gold, predicted)
    assert (scores.gold, scores.predicted, scores.correct) == (4, 4, 3)
    assert set(scores.per_type) == {"Person name", "PER", "PER-", "Ọ̀yọ́"}
    assert scores.per_type["PER-"] == {"precision": 50.0, "recall": 100.0, "f1": 200 / 3, "support": 1}


@pytest.mark.parametrize(
    "gold, predicted, text",
    [
        ([["O"]], [["O"], ["O"]], "1 gold but 2 predicted sentences"),
        ([["O"], ["O", "O"]], [["O"], ["O"]], "sentence 1: 2 gold but 1 predicted tags"),
        ([], [], "no words to score"),
        ([[]], [[]], "no words to score"),
        ([["O", "S-PER"]], [["O", "O"]], r"gold sentence 0: .*'S-PER'.*Allowed: O, B-TYPE, I-TYPE"),
        ([["O"]], [["B-"]], "predicted sentence 0: .*'B-'"),
        ([["O"]], [[3]], "predicted sentence 0: .*3"),
        ([["O"]], [["O-PER"]], "'O-PER'"),
        (["O"], ["O"], "expected a list of tags"),
    ],
)
def test_bad_input(gold, predicted, text):
    with pytest.raises(DataError, match=text):
        entity_scores(gold, predicted)


@pytest.mark.parametrize(
    "arrays, text",
    [
        (([1], [1, 1], [1]), "different lengths"),
        (([2], [1], [3]), "2 correct entities of 1 gold"),
        (([-1], [1], [3]), "-1 correct"),
        (([0.5], [1], [3]), "whole number"),
        (([[1]], [[1]], [[1]]), "shape"),
    ],
)
def test_statistics_are_checked(arrays, text):
    with pytest.raises(DataError, match=text):
        Statistics(*arrays)


def test_an_unknown_reading_is_refused():
    with pytest.raises(ConfigError, match="'conlleval'.*lenient"):
        entity_scores([["O"]], [["O"]], scoring="conlleval")


def test_statistics_cannot_be_changed():
    mine = np.array([1, 0])
    s = Statistics(mine, [1, 1], [1, 0])
    mine[0] = 0
    assert s.tp.tolist() == [1, 0] and s == Statistics([1, 0], [1, 1], [1, 0]) != Statistics([0, 0], [1, 1], [1, 0])
    with pytest.raises(ValueError, match="read-only"):
        s.tp[0] = 0
