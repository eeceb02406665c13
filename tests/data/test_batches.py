"""Words -> pieces -> windows -> batches -> tags: nothing is lost, and nothing is there twice."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madx.data.labelled.batches import batches, collate, merge_predictions
from madx.data.labelled.conll import read_conll
from madx.data.labelled.labels import LabelSet
from madx.data.labelled.sentences import Sentence
from madx.data.labelled.windows import Row, encode_words, windows, word_pieces
from madx.errors import ConfigError, DataError

LABELS = LabelSet(("O", "B-A", "I-A"))
SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=40)


def rows_of(lengths):
    return [Row(tuple(range(n)), (1,), (0,), (), i, (1,)) for i, n in enumerate(lengths)]


def sentence(*words, tag="O"):
    return Sentence(words, (tag,) * len(words), 1)


# --- windows


def test_the_worked_example():
    assert windows([1] * 8, room=4, overlap=2) == [(0, 4, [0, 1, 2]), (2, 6, [3, 4]), (4, 8, [5, 6, 7])]


@given(SIZES, st.integers(9, 30), st.integers(0, 8))
def test_windows(sizes, room, overlap):
    found = windows(sizes, room=room, overlap=overlap)
    assert sorted(word for *_, words in found for word in words) == list(range(len(sizes)))
    assert all(sum(sizes[start:end]) <= room for start, end, _ in found)
    assert all(start <= word < end for start, end, words in found for word in words)
    assert (len(found) == 1) == (sum(sizes) <= room)
    starts = [start for start, *_ in found]
    assert starts == sorted(set(starts))

    def nearer_edge(word, start, end):
        left = float("inf") if start == 0 else sum(sizes[start:word])
        right = float("inf") if end == len(sizes) else sum(sizes[word + 1 : end])
        return min(left, right)

    for start, end, words in found:
        for word in words:
            others = [nearer_edge(word, s, e) for s, e, _ in found if s <= word < e]
            assert nearer_edge(word, start, end) == max(others)


@given(st.integers(2, 60), st.integers(5, 20))
def test_inner_words_have_context_on_both_sides(count, room):
    """With words of one piece and an overlap of 2k, a word has k - 1 words on each side, or the sentence ends there."""
    overlap = (room - 1) // 2 * 2
    for start, end, words in windows([1] * count, room=room, overlap=overlap):
        for word in words:
            assert start == 0 or word - start >= overlap // 2 - 1
            assert end == count or end - word - 1 >= overlap // 2 - 1


# --- words


def test_short_sentence(tokenizer):
    (row,) = encode_words(tokenizer, [Sentence(("the", "cab", "."), ("O", "B-A", "O"), 1)], LABELS, max_length=20)
    pieces = word_pieces(tokenizer, [("the", "cab", ".")])[0]
    assert row.input_ids == (0, *pieces[0], *pieces[1], *pieces[2], 2) and len(pieces[1]) > 1
    assert row.first == (1, 1 + len(pieces[0]), 1 + len(pieces[0]) + len(pieces[1]))
    assert row.words == (0, 1, 2) and row.labels == (0, 1, 0) and row.sentence == 0


WORDS = st.lists(st.text("abẹ\u0301z .\u200b\u0007ж", min_size=0, max_size=12), min_size=1, max_size=25)


@given(st.lists(WORDS, min_size=1, max_size=4), st.integers(4, 20), st.data())
def test_every_word_is_predicted_once_and_nothing_is_cut(tokenizer, words, max_length, data):
    overlap = data.draw(st.integers(0, max_length - 3))
    sentences = [
        Sentence(tuple(row), tuple("OBI"[len(w) % 3] + ("-A" if len(w) % 3 else "") for w in row)) for row in words
    ]
    rows = encode_words(tokenizer, sentences, LABELS, max_length=max_length, overlap=overlap)
    pieces = word_pieces(tokenizer, [s.tokens for s in sentences])
    for row in rows:
        assert len(row) <= max_length and row.input_ids[0] == 0 and row.input_ids[-1] == 2
        for place, word, label in zip(row.first, row.words, row.labels, strict=True):
            ids = pieces[row.sentence][word][: max_length - 2]
            assert list(row.input_ids[place : place + len(ids)]) == ids
            assert LABELS.tags[label] == sentences[row.sentence].tags[word]
    merged = merge_predictions(rows, [LABELS.decode(row.labels) for row in rows], sentences)
    assert merged == [list(s.tags) for s in sentences]


def test_word_longer_than_a_window(tokenizer):
    rows = encode_words(tokenizer, [sentence("b", "z" * 50, "c")], None, max_length=10, overlap=3)
    assert [row.words for row in rows] == [(0,), (1,), (2,)] and max(map(len, rows)) == 10
    assert all(row.labels == () for row in rows)


def test_word_without_a_piece(tokenizer):
    assert word_pieces(tokenizer, [("", "a", "\u00a0")]) == [[[3], word_pieces(tokenizer, [("a",)])[0][0], [3]]]
    assert encode_words(tokenizer, [Sentence((), ())], LABELS, max_length=10) == []


def test_special_tokens_in_text_are_text(tokenizer):
    (row,) = encode_words(tokenizer, [sentence("</s>", "<mask>")], None, max_length=30)
    assert row.input_ids.count(2) == 1 and 4 not in row.input_ids


def test_slow_tokenizers_read_word_by_word(tokenizer):
    """A slow tokenizer gives no offsets; with a vocabulary that splits at spaces both kinds give the same pieces."""

    class Slow:
        is_fast, unk_token_id, all_special_ids = False, 3, [0, 1, 2, 3, 4]
        cls_token_id, sep_token_id = 0, 2

        def __call__(self, texts, **settings):
            return tokenizer(texts, **settings)

    words = [["the", "cab", "."], ["abc"], ["the", ""]]
    assert word_pieces(Slow(), words) == word_pieces(tokenizer, words)


def test_byte_level_pieces_belong_to_their_words():
    """In RoBERTa's tokenizer a piece begins with the space before it, and one character may be several pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "</s>", "<unk>", *alphabet, "Ġt", "Ġth"])}
    core = Tokenizer(models.BPE(vocabulary, [("Ġ", "t"), ("Ġt", "h")], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte = PreTrainedTokenizerFast(tokenizer_object=core, cls_token="<s>", sep_token="</s>", unk_token="<unk>")
    tokens = [[byte.convert_ids_to_tokens(p) for p in word_pieces(byte, [("a", "the", "é", "b")])[0]]][0]
    assert tokens == [["a"], ["Ġth", "e"], ["Ġ", "Ã", "©"], ["Ġ", "b"]]


def test_wrong_settings(tokenizer):
    for max_length, overlap in ((2, 0), (10, 8), (10, -1)):
        with pytest.raises(ConfigError, match=f"max_length {max_length}, overlap {overlap}"):
            encode_words(tokenizer, [sentence("a")], None, max_length=max_length, overlap=overlap)
    with pytest.raises(DataError, match="'B-X' is not in the label set"):
        encode_words(tokenizer, [sentence("a", tag="B-X")], LABELS, max_length=10)


def test_merging_checks():
    rows = [Row((0, 1), (1,), (0,), (), 0, (1,)), Row((0, 1), (1,), (1,), (), 0, (1,))]
    two = [SimpleNamespace(tokens=("a", "b"))]
    assert merge_predictions(rows, [["X"], ["Y"]], two) == [["X", "Y"]]
    for given_rows, tags, expected in (
        (rows[:1], [["X"]], "sentence 0, word 1: no prediction"),
        ([rows[0], rows[0]], [["X"], ["X"]], "sentence 0, word 0: predicted twice"),
        (rows, [["X"], []], "0 predictions for 1 words"),
    ):
        with pytest.raises(DataError, match=expected):
            merge_predictions(given_rows, tags, two)


# --- batches

LENGTHS = st.lists(st.integers(1, 50), max_size=120)
BUDGET = st.sampled_from([{"batch_size": 1}, {"batch_size": 7}, {"tokens_per_batch": 60}, {"tokens_per_batch": 400}])


@given(LENGTHS, BUDGET, st.booleans(), st.integers(0, 3))
def test_every_row_once_within_the_budget(lengths, budget, shuffle, epoch):
    found = batches(rows_of(lengths), seed=1, epoch=epoch, shuffle=shuffle, **budget)
    assert sorted(i for batch in found for i in batch) == list(range(len(lengths)))
    assert found == batches(rows_of(lengths), seed=1, epoch=epoch, shuffle=shuffle, **budget)
    for batch in found:
        longest = max(lengths[i] for i in batch)
        assert len(batch) <= budget.get("batch_size", len(batch))
        assert len(batch) == 1 or longest * len(batch) <= budget.get("tokens_per_batch", longest * len(batch))


def test_epochs_and_seeds_differ_and_padding_is_small():
    lengths = np.random.default_rng(0).integers(1, 60, 5000)
    rows = rows_of(lengths)
    found = batches(rows, batch_size=32, seed=0, epoch=0)
    assert found != batches(rows, batch_size=32, seed=0, epoch=1) != batches(rows, batch_size=32, seed=1, epoch=1)
    padded = sum(len(batch) * lengths[batch].max() for batch in found)
    assert lengths.sum() / padded > 0.95
    firsts = [lengths[batch].max() for batch in found]
    assert firsts != sorted(firsts)  # short and long batches are mixed


def test_collate():
    rows = [Row((0, 5, 6, 2), (1, 2), (0, 1), (1, 0), 0, (1, 1)), Row((0, 7, 2), (1,), (3,), (2,), 1, (1,))]
    tensors = collate(rows, pad_id=1)
    assert tensors["input_ids"].tolist() == [[0, 5, 6, 2], [0, 7, 2, 1]]
    assert tensors["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert tensors["first"].tolist() == [[1, 2], [1, -1]] and tensors["pieces"].tolist() == [[1, 1], [1, 0]]
    assert tensors["labels"].tolist() == [[1, 0], [2, -100]]
    assert {t.dtype for t in tensors.values()} == {torch.int64}
    assert "labels" not in collate([Row((0, 2), (), (), (), 0, ())], pad_id=1)


def test_wrong_budget():
    for settings in ({}, {"batch_size": 2, "tokens_per_batch": 2}, {"batch_size": 0}, {"tokens_per_batch": 0}):
        with pytest.raises(ConfigError, match="give one of them, at least 1"):
            batches(rows_of([1]), **settings)


# --- real data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yor-masakhaner2/dev", "eng-uner/dev", "por-uner/dev"])
def test_real_sentences(shared, real_tokenizer, name):
    """The pieces are those of transformers for lists of words, and windows of 64 tokens give back every tag."""
    sentences = read_conll(shared / "data" / "ner" / f"{name}.conll")
    labels = LabelSet.from_sentences(sentences)
    expected = real_tokenizer(
        [list(s.tokens) for s in sentences], is_split_into_words=True, add_special_tokens=False, verbose=False
    )
    ours = [[i for word in words for i in word] for words in word_pieces(real_tokenizer, [s.tokens for s in sentences])]
    assert ours == expected["input_ids"]
    rows = encode_words(real_tokenizer, sentences, labels, max_length=64)
    assert len(rows) > len(sentences) and max(map(len, rows)) <= 64
    merged = merge_predictions(rows, [labels.decode(row.labels) for row in rows], sentences)
    assert merged == [list(s.tags) for s in sentences]
