import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cosine, jensenshannon

from madx.data import world
from madx.errors import ConfigError, DataError
from madx.metrics.language_similarity import mean_weights, ngrams, similarities

words = st.lists(st.text("abcdä", min_size=1, max_size=6), min_size=1, max_size=8).map(" ".join)


@given(words, words, st.sampled_from(["cosine", "jensen_shannon"]), st.integers(1, 4))
@settings(derandomize=True, max_examples=60, deadline=None)
def test_measures_are_symmetric_and_bounded_and_one_for_equal_texts(a, b, measure, n):
    a, b = a + " abcd", b + " dcba"
    found = similarities({"a": [a], "b": [b], "c": [a, "!"]}, measure=measure, n=n).values
    assert found["a"]["b"] == found["b"]["a"] and 0 <= found["a"]["b"] <= 1
    if len(list(ngrams([a], n=n))) <= len(list(ngrams([b], n=n))):  # else `a` and its twin are cut alike all the same
        assert found["a"]["c"] == pytest.approx(1)


def test_measures_equal_scipy():
    texts = {"a": ["the cat sat on the mat and the dog sat too"], "b": ["der kater sah das matte tor und den hund"]}
    length = min(len(list(ngrams(t))) for t in texts.values())
    a, b = (Counter(list(ngrams(t))[:length]) for t in texts.values())
    keys = sorted(a | b)
    x, y = np.array([a[k] for k in keys]), np.array([b[k] for k in keys])
    found = similarities(texts, measure="cosine")
    assert found.values["a"]["b"] == pytest.approx(1 - cosine(x, y)) and found.ngrams == length
    assert similarities(texts).values["a"]["b"] == pytest.approx(1 - jensenshannon(x, y, base=2) ** 2)


def test_other_scripts_are_nothing_alike_and_marks_stay_in_words():
    assert similarities({"ell": ["καλημέρα κόσμε 2024"], "eng": ["good morning 2024"]}).values["ell"]["eng"] == 0
    assert list(ngrams(["हिन्दी"])) == [" हि"[:3], "हिन", "िन्", "न्द", "्दी", "दी "]  # vowel signs and virama are no gaps
    assert list(ngrams(["a\u200db"], n=2)) == [" a", "ab", "b "] and list(ngrams(["I 3,x"], n=4)) == []


def test_small_and_large_texts_are_compared_on_equal_terms():
    rng = random.Random(0)
    lines = [" ".join("".join(rng.choices("abcdefgh", k=5)) for _ in range(8)) for _ in range(400)]
    small, large = {"a": lines[:40], "b": lines[40:80]}, {"a": lines[:40], "b": lines[40:]}
    assert similarities(small).values == similarities(large).values  # the tail of the larger text is not read
    assert similarities(large, limit=50).ngrams == 50


def test_relatives_of_the_miniature_world_are_found(tmp_path):
    texts = {}
    for language in ("eng", "deu", "spa", "tur", "fin", "swa"):
        world.write_corpus(language, tmp_path / language, sentences=200, seed=1)
        texts[language] = (tmp_path / language).read_text(encoding="utf-8").splitlines()
    for measure in ("jensen_shannon", "cosine"):
        found = similarities(texts, measure=measure).values
        assert all(row[language] == 1 == max(row.values()) for language, row in found.items())
    split = {"deu1": texts["deu"][:100], "deu2": texts["deu"][100:], "tur": texts["tur"]}
    found = similarities(split).values
    assert found["deu1"]["deu2"] > 2 * found["deu1"]["tur"]  # a language is most like itself


def test_weights():
    assert mean_weights({"a": 0.2, "b": 0.6}) == pytest.approx({"b": 0.75, "a": 0.25})
    assert mean_weights({"a": 1, "b": 2}, sharpness=2) == pytest.approx({"b": 0.8, "a": 0.2})
    assert mean_weights({"a": 0.2, "b": 0.6, "c": 0.1}, top=1) == {"b": 1.0}
    tiny = mean_weights({"a": 1e-200, "b": 2e-200}, sharpness=3)
    assert tiny == pytest.approx({"b": 8 / 9, "a": 1 / 9}) and math.fsum(tiny.values()) == pytest.approx(1)
    assert list(mean_weights({"a": 0.5, "b": 0.5})) == ["a", "b"]  # ties: as given


@pytest.mark.parametrize(
    "call, error, text",
    [
        (lambda: similarities({"a": ["x"]}), ConfigError, "similarity of 1 languages"),
        (lambda: similarities({"a": ["words"], "b": ["12 34"]}), DataError, "'b' holds no word"),
        (lambda: mean_weights({"a": 0.0}), ConfigError, "of a none has"),
        (lambda: mean_weights({}), ConfigError, "no language"),
        (lambda: mean_weights({"a": -1.0, "b": 1.0}), ConfigError, "not negative, got {'a': -1.0}"),
        (lambda: mean_weights({"a": math.nan}), ConfigError, "finite"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
