"""Reports on corpora, labelled sets and leakage: every figure equals one counted by hand or in another way."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madx.data.inspect import text as module
from madx.data.inspect.labels import inspect_labels
from madx.data.inspect.overlap import LEAST, SentenceIndex, letters
from madx.data.inspect.text import Duplicates, inspect_text, script_of, scripts
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.tags import Inventory


def has(warnings, *words):
    return any(all(w in text for w in words) for text in warnings)


# ---- duplicates ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 8), max_size=40))
def test_duplicates_are_exact_within_the_bound(numbers):
    found = Duplicates()
    for number in numbers:
        found.add(str(number))
    assert found.exact and found.share == ((len(numbers) - len(set(numbers))) / len(numbers) if numbers else 0)


def test_duplicates_beyond_the_bound_are_a_fair_estimate_in_bounded_memory():
    draw, found = random.Random(0), Duplicates(kept=500)
    lines = [f"line {draw.randrange(6000)}" for _ in range(10000)]
    for line in lines:
        found.add(line)
        assert len(found.counts) <= 500
    truth = 1 - len(set(lines)) / len(lines)
    assert not found.exact and found.bits >= 3 and found.share == pytest.approx(truth, abs=0.06)
    assert set(found.counts.values()) <= set(Counter(lines).values()), "every copy of a kept line was counted"


# ---- text ------------------------------------------------------------------------------------------------------------


def test_a_corpus_is_counted(tokenizer):
    lines = ["the a ing", "the a ing", "in Жx", "a"]
    seen = []
    r = inspect_text(iter(lines), tokenizer, watch=seen.append)
    ids = tokenizer(lines, add_special_tokens=False)["input_ids"]
    assert seen == lines and (r.lines, r.words, r.tokens) == (4, 9, sum(map(len, ids)))
    assert r.unknown == sum(row.count(3) for row in ids) > 0 and r.unknown_rate == r.unknown / r.tokens
    assert r.pieces_per_word == r.tokens / 9 and r.longest == max(map(len, ids)) and r.characters == 19
    assert r.unknown_characters == {"Ж": 1} and r.coverage == pytest.approx(18 / 19)
    assert (r.duplicates, r.duplicates_exact) == (0.25, True)
    assert r.scripts == {"Latin": pytest.approx(18 / 19), "Cyrillic": pytest.approx(1 / 19)}


def test_each_warning_says_what_to_do(tokenizer):
    text = ["the \ufffd\x07 ЖЖЖЖЖ"] * 3
    warnings = inspect_text(text, tokenizer).warnings
    assert has(warnings, "unknown to the tokenizer", "U+0416 CYRILLIC CAPITAL LETTER ZHE", "transliterate")
    assert has(warnings, "67% of the lines", "sort -u") and has(warnings, "Cyrillic is the main script", "Latin")
    assert has(warnings, "3 replacement characters", "original") and has(warnings, "3 control characters", "tr -d")
    assert has(warnings, "tiny") and len(warnings) == 6 + has(warnings, "pieces a word")


def test_a_clean_large_corpus_gives_no_warning(tokenizer, monkeypatch):
    monkeypatch.setattr(module, "TINY", 10)
    assert inspect_text([f"the a in {'a' * n}" for n in range(1, 9)], tokenizer).warnings == []


def test_scripts():
    assert [script_of(c) for c in "aẹжλ語あア한አب7 .́"] == [
        "Latin",
        "Latin",
        "Cyrillic",
        "Greek",
        "CJK",
        "Hiragana",
        "Katakana",
        "Hangul",
        "Ethiopic",
        "Arabic",
        None,
        None,
        None,
        None,
    ]
    assert scripts(Counter("aab ж 12")) == {"Latin": 0.75, "Cyrillic": 0.25} and scripts({}) == {}


# ---- leakage ---------------------------------------------------------------------------------------------------------

LONG = Sentence(("Anna", "said", ":", '"', "Nairobi", "is", "a", "large", "city", '"', "."), ("O",) * 11, 7)


def test_a_sentence_is_found_inside_a_document_whatever_its_case_and_punctuation():
    index = SentenceIndex({"test": [LONG, Sentence(("Thank", "you", "."), ("O",) * 3, 20)]})
    index.look("Yesterday ANNA said, 'Nairobi is a Large city'; so it was.")
    index.look("Thank you.")
    (overlap,) = index.seen("the corpus")
    assert (overlap.found, overlap.of, overlap.lines, overlap.share) == (1, 1, [7], 1.0)
    assert overlap.example.startswith("Anna said")


def test_a_part_of_a_sentence_is_not_the_sentence():
    index = SentenceIndex({"test": [LONG]})
    for line in ("Anna said: Nairobi is a large", "Anna said: Nairobi is a small city", "Nairobi is a large city"):
        index.look(line)
    assert index.seen("the corpus")[0].found == 0


def test_sets_are_compared_with_those_before_them():
    other = Sentence(LONG.tokens[:-1], LONG.tags[:-1], 3)
    index = SentenceIndex({"train": [other, other], "dev": [], "test": [LONG]})
    found = {(o.data, o.source): (o.found, o.of) for o in index.between()}
    assert found == {("dev", "train"): (0, 0), ("test", "train"): (1, 1), ("test", "dev"): (0, 1)}


words = st.text("abc Ü.", min_size=1, max_size=30)


@given(words, words, words)
def test_search_equals_plain_containment(before, sentence, after):
    tokens = tuple(sentence.split()) or ("a",)
    index = SentenceIndex({"x": [Sentence(tokens, ("O",) * len(tokens), 1)]})
    for line in (before, before + sentence + after):
        index._found.clear()
        index.look(line)
        wanted = letters("".join(tokens))
        assert index.seen("c")[0].found == (len(wanted) >= LEAST and wanted in letters(line))


# ---- labelled data ---------------------------------------------------------------------------------------------------


def test_a_labelled_set_is_counted(tokenizer):
    sentences = [
        Sentence(("a", "the", "a"), ("B-PER", "I-PER", "O"), 1),
        Sentence(("in", "a"), ("O", "O"), 5),
        Sentence(("the",), ("B-LOC",), 8),
        Sentence(("in", "a"), ("O", "B-LOC"), 10),
    ]
    r = inspect_labels(sentences, tokenizer, path="x.conll", max_length=4)
    assert (r.sentences, r.words, r.scheme, r.bare, r.invalid) == (4, 8, "iob2", 1, 0)
    assert r.labels == {"LOC": 2, "PER": 1} and (r.repeated, r.contradictory) == (1, 1)
    assert (r.length.mean, r.length.median, r.length.longest) == (2.0, 2.0, 3)
    sizes = [len(tokenizer(" ".join(s.tokens), add_special_tokens=False)["input_ids"]) for s in sentences]
    assert (
        r.pieces.longest == max(sizes)
        and r.pieces_per_word == sum(sizes) / 8
        and r.windows == sum(n > 2 for n in sizes)
    )
    assert (
        has(r.warnings, "contradict")
        and has(r.warnings, "several windows")
        and has(r.warnings, "fewer than 30 of LOC (2), PER (1)")
    )


def test_names_inside_words_recommend_another_pooling(tokenizer):
    divided = Sentence(("xAnna", "a", "the"), ("B-PER", "O", "O"), 1)
    whole = Sentence(("the", "the"), ("B-LOC", "O"), 5)
    malformed = Sentence(("a", "xAnna"), ("O", "loc"), 8)  # its tags are left out, not its words
    r = inspect_labels([malformed, *[divided] * 9, whole], tokenizer, path="x")
    pieces = [len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in ("xAnna", "a", "the")]
    assert pieces[0] > 1 and pieces[1:] == [1, 1]
    assert r.divided_names == 0.9 and r.divided == 10 / 31
    assert has(r.warnings, "90% of the names", "pooling: last")
    r = inspect_labels([divided, whole], tokenizer, path="x")
    assert r.divided_names == 0.5 and not has(r.warnings, "pooling")
    assert inspect_labels([whole], tokenizer, path="x", inventory=Inventory("T", ("O", "B-LOC"))).divided_names is None


def test_invalid_sequences_are_all_counted_and_the_first_named(tokenizer):
    good = [Sentence(("a", "the"), ("B-PER", "I-PER"), n) for n in range(1, 90, 3)]
    bad = [Sentence(("a", "in"), ("O", "I-LOC"), 100), Sentence(("a", "in"), ("B-PER", "loc"), 104)]
    r = inspect_labels([*good, *bad], tokenizer, path="x", scheme="iob2")
    assert r.invalid == 2 and r.labels == {"PER": 30, "LOC": 1}
    assert r.faults[0].startswith("sentence of line 100, word 2 'in': I-LOC after O") and "tag 'loc'" in r.faults[1]
    assert has(r.warnings, "2 of 32 sentences", "repair=true")


def test_plain_tags_are_checked_against_their_inventory(tokenizer):
    inventory = Inventory("UPOS", ("NOUN", "DET"))
    r = inspect_labels(
        [Sentence(("a", "the"), ("DET", "NOUN"), 1), Sentence(("a",), ("Det",), 4)],
        tokenizer,
        path="x",
        inventory=inventory,
    )
    assert (r.labels, r.scheme, r.bare, r.invalid) == ({"DET": 1, "NOUN": 1}, "UPOS", 0, 1)
    assert "did you mean 'DET'" in r.faults[0] and has(r.warnings, "not valid UPOS", "another column")


def test_a_column_without_spans_gets_a_warning(tokenizer):
    r = inspect_labels([Sentence(("a",), ("O",), 1)], tokenizer, path="x")
    assert has(r.warnings, "no span at all", "columns.tag")
