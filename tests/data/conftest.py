"""Tiny tokenizers and sentences for the tests of madx.data, made here, offline."""

import os
from pathlib import Path

import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
LETTERS = "abcdefghijklmnopqrstuvwxyzẹ́"
TYPES = ("PER", "LOC", "geo-loc")


@pytest.fixture(scope="session")
def tokenizer():
    """A small tokenizer like that of XLM-R: unigram over letters and a few words, so most pieces are letters."""
    pieces = ["▁", *LETTERS, "▁the", "▁a", "ing", "▁in", "."]
    vocabulary = [(piece, 0.0) for piece in SPECIAL] + [(p, -1.0 - len(pieces) / (10 * len(p) ** 2)) for p in pieces]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    core.decoder = decoders.Metaspace()
    names = dict(bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>", pad_token="<pad>")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", mask_token="<mask>", model_max_length=16, **names
    )


@pytest.fixture(scope="session")
def bert_tokenizer():
    """A small tokenizer like that of BERT: WordPiece with [CLS] and [SEP], without bos and eos."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "##s", "##ing", "on"]
    core = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = dict(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]")
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the checkout, or $MADX_SHARED; without it such tests are skipped."""
    folder = Path(os.environ.get("MADX_SHARED") or Path(__file__).parents[3] / "shared")
    if not (folder / "data" / "ner").is_dir() or not (folder / "models" / "mini-xlmr").is_dir():
        pytest.skip(f"no real data: {folder} holds no data/ner and models/mini-xlmr (set MADX_SHARED)")
    return folder


@pytest.fixture(scope="session")
def real_tokenizer(shared):
    # not AutoTokenizer: transformers 4 does not know the class that version 5 wrote into the folder
    return PreTrainedTokenizerFast.from_pretrained(shared / "models" / "mini-xlmr")


def _spans_of(cuts: list[tuple[int, str | None]]) -> tuple[int, list[tuple[str, int, int]]]:
    place, spans = 0, []
    for length, kind in cuts:
        if kind:
            spans.append((kind, place, place + length))
        place += length
    return place, spans


@pytest.fixture(scope="session")
def annotations():
    """A strategy of (number of words, spans): with neighbours of one type, with gaps, and without any word."""
    cut = st.tuples(st.integers(1, 4), st.one_of(st.none(), st.sampled_from(TYPES)))
    return st.lists(cut, max_size=8).map(_spans_of)
