"""Packing: blocks hold the lines in order, held-out lines are never trained on, and the cache is used and mended."""

import hashlib
import json
import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from madx.base.fingerprints import tokenizer_fingerprint
from madx.data.text import packing
from madx.data.text.blocks import BlockArray, Blocks, pack_corpus
from madx.data.text.packing import BUCKETS, CorpusStats, Flat, held_out_lines
from madx.data.text.tokenizing import frame_of, text_ids
from madx.errors import BaseError, ConfigError, DataError


def corpus(folder, lines=400, seed=0):
    """Write lines of random words; every tenth is a copy of an earlier one. Returns the file and the lines."""
    chance = np.random.default_rng(seed)
    made = []
    for i in range(lines):
        words = ["".join(chance.choice(list("abcdeg"), chance.integers(1, 6))) for _ in range(chance.integers(1, 8))]
        made.append(made[chance.integers(0, i)] if i % 10 == 9 else " ".join(words))
    file = folder / "corpus.txt"
    file.write_text("\n".join(made))
    return file, made


def line_ids(tokenizer, lines):
    return [[*row, frame_of(tokenizer).end] for row in text_ids(tokenizer, lines)]


def test_blocks_hold_the_lines_in_order(tmp_path, tokenizer):
    file, lines = corpus(tmp_path)
    blocks = pack_corpus(file, tokenizer, block_size=32, cache=tmp_path / "cache")
    assert blocks[0].dtype == np.int64 and blocks[0].shape == (32,) and blocks[[0, 1]].shape == (2, 32)
    assert blocks.train.stored.dtype == np.uint16 and blocks.block_size == 32 and len(blocks) == len(blocks.train)
    ids = line_ids(tokenizer, lines)
    stored = {}
    for name, side in (("train", blocks.train), ("held_out", blocks.held_out)):
        assert (side[:][:, 0] == tokenizer.cls_token_id).all() and (side[:][:, -1] == tokenizer.sep_token_id).all()
        stored[name] = side[:][:, 1:-1].ravel().tolist()
    # the lines on each side, taken greedily in order, give both files, up to a tail shorter than a block
    held_out = held_lines(tokenizer, tmp_path, file)
    held = np.array([line in held_out for line in lines])
    for name, mask in (("train", ~held), ("held_out", held)):
        expected = [i for row, wanted in zip(ids, mask, strict=True) if wanted for i in row]
        assert stored[name] == expected[: len(stored[name])] and 0 <= len(expected) - len(stored[name]) < 30
    assert 0.04 < sum(len(row) for row, h in zip(ids, held, strict=True) if h) / sum(map(len, ids)) < 0.11


def held_lines(tokenizer, tmp_path, file):
    """Return the distinct held-out lines."""
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    lines = file.read_text().split("\n")
    flat = packing.tokenise(lines, tokenizer, scratch)
    mask = held_out_lines(flat, target=int(max(0.05 * len(flat.ids), 30)))
    return {line for line, held in zip(lines, mask, strict=True) if held}


def test_stats_and_warnings(tmp_path, tokenizer):
    file, lines = corpus(tmp_path)
    file.write_text("\n".join([*lines, "жж </s> a"]))
    blocks = pack_corpus(file, tokenizer, block_size=32, cache=tmp_path / "cache")
    pieces = text_ids(tokenizer, [*lines, "жж </s> a"])
    unknown = sum(row.count(tokenizer.unk_token_id) for row in pieces)
    words = sum(len(line.split()) for line in lines) + 3
    assert blocks.stats == CorpusStats(tokens=sum(map(len, pieces)), words=words, lines=401, unknown=unknown)
    assert 2 <= unknown < 6 and all(tokenizer.sep_token_id not in row for row in pieces)  # the typed </s> is text
    (tiny,) = blocks.warnings()
    assert "tiny" in tiny and f"{blocks.stats.tokens:,} tokens" in tiny


@pytest.mark.parametrize(
    "tokens, unknown, expected",
    [(99_999, 0, ["tiny"]), (100_000, 1000, []), (100_000, 1001, ["unknown to the tokenizer"])],
)
def test_when_it_warns(tokens, unknown, expected, tmp_path):
    stats = CorpusStats(tokens=tokens, words=50_000, lines=10, unknown=unknown)
    blocks = Blocks(
        train=BlockArray(np.zeros((1, 8))), held_out=BlockArray(np.zeros((1, 8))), stats=stats, folder=tmp_path
    )
    found = blocks.warnings()
    assert len(found) == len(expected) and all(word in text for word, text in zip(expected, found, strict=True))
    assert stats.pieces_per_word == tokens / 50_000 and stats.unknown_rate == unknown / tokens


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(2, 60)), min_size=2, max_size=60),
    st.sampled_from([10, 50, 200]),
)
def test_held_out_lines(lines, target):
    """Copies are on one side; there are enough tokens if possible, and at most twice the target if lines are short."""
    buckets, lengths = (np.array(column, dtype=np.int32) for column in zip(*lines, strict=True))
    flat = Flat(ids=np.zeros(0), lengths=lengths, buckets=buckets * (BUCKETS // 64), stats=CorpusStats(0, 0, 0, 0))
    held = held_out_lines(flat, target=target)
    assert set(buckets[held]).isdisjoint(buckets[~held])
    total = int(lengths[held].sum())
    assert total >= min(target, int(lengths.sum()))
    if max(Counter({b: int(lengths[buckets == b].sum()) for b in set(buckets)}).values()) <= target <= total:
        assert total <= 2 * target


def test_held_out_share_is_bounded(tmp_path, tokenizer):
    file, _ = corpus(tmp_path)
    few = pack_corpus(file, tokenizer, block_size=16, held_out_most=3, cache=tmp_path / "cache")
    many = pack_corpus(file, tokenizer, block_size=16, held_out_share=0.5, cache=tmp_path / "cache")
    assert len(few.held_out) == 3 and 0.3 < len(many.held_out) / (len(many) + len(many.held_out)) < 0.7
    assert len(few) > len(many)  # what is not held out is trained on


def test_the_side_of_a_line_does_not_depend_on_the_order(tmp_path, tokenizer):
    file, lines = corpus(tmp_path)
    held = held_lines(tokenizer, tmp_path, file)
    file.write_text("\n".join(reversed(lines)))
    assert held_lines(tokenizer, tmp_path, file) == held


def test_the_second_use_reads_the_cache_and_says_so(tmp_path, tokenizer, caplog, monkeypatch):
    file, _ = corpus(tmp_path)
    caplog.set_level(logging.INFO, logger="madx")
    first = pack_corpus(file, tokenizer, block_size=32, cache=tmp_path / "cache")
    assert "packed into" in caplog.text and [p.name for p in (tmp_path / "cache").iterdir()] == [first.folder.name]
    file.rename(tmp_path / "moved.txt")  # the contents count, not the name
    monkeypatch.setattr("madx.data.text.blocks.tokenise", None)
    second = pack_corpus(tmp_path / "moved.txt", tokenizer, block_size=32, cache=tmp_path / "cache")
    assert "read from the cache" in caplog.text
    assert second.stats == first.stats and np.array_equal(second.train[:], first.train[:])
    assert isinstance(second.train.stored, np.memmap)


def test_the_key_depends_on_contents_tokenizer_and_settings(tmp_path, tokenizer, bert_tokenizer):
    file, lines = corpus(tmp_path)
    cache = tmp_path / "cache"
    folders = {pack_corpus(file, tokenizer, block_size=32, cache=cache).folder}
    folders.add(pack_corpus(file, tokenizer, block_size=24, cache=cache).folder)
    folders.add(pack_corpus(file, bert_tokenizer, block_size=32, cache=cache).folder)
    folders.add(pack_corpus(file, tokenizer, block_size=32, limit=390, cache=cache).folder)
    tokenizer(["a b"], max_length=4, truncation=True, padding="max_length")  # leaves a state behind, but is the same
    folders.add(pack_corpus(file, tokenizer, block_size=32, cache=cache).folder)
    file.write_text("\n".join(lines[1:]))
    folders.add(pack_corpus(file, tokenizer, block_size=32, cache=cache).folder)
    assert len(folders) == 5


def test_a_damaged_cache_is_packed_anew(tmp_path, tokenizer, caplog):
    file, _ = corpus(tmp_path)
    first = pack_corpus(file, tokenizer, block_size=32, cache=tmp_path / "cache")
    expected = first.train[:].copy()
    content = (first.folder / "train.npy").read_bytes()
    (first.folder / "train.npy").write_bytes(content[:-100])
    again = pack_corpus(file, tokenizer, block_size=32, cache=tmp_path / "cache")
    assert "damaged" in caplog.text and np.array_equal(again.train[:], expected)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_full_disk_leaves_nothing_behind(tmp_path, tokenizer, monkeypatch):
    file, _ = corpus(tmp_path)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("madx.data.text.blocks.pack", full)
    with pytest.raises(DataError, match="cannot be written.*No space left"):
        pack_corpus(file, tokenizer, block_size=32, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("text", ["a b c", "abcde " * 200, "\n".join(["the same line"] * 300)])
def test_too_small(tmp_path, tokenizer, text):
    (tmp_path / "x.txt").write_text(text)
    with pytest.raises(DataError, match=r"x\.txt: the corpus is too small.*Add text"):
        pack_corpus(tmp_path / "x.txt", tokenizer, block_size=32, cache=tmp_path / "cache")


def test_smallest_corpus(tmp_path, tokenizer):
    (tmp_path / "x.txt").write_text("abcdefgh\nbcdefghi\ncdefghij\n")
    blocks = pack_corpus(tmp_path / "x.txt", tokenizer, block_size=10, cache=tmp_path / "cache")
    assert len(blocks) >= 1 and len(blocks.held_out) >= 1


def test_faults_of_the_corpus_come_through(tmp_path, tokenizer):
    (tmp_path / "x.txt").write_bytes(b"fine\n\xff")
    with pytest.raises(DataError, match=r"x\.txt:2: not UTF-8"):
        pack_corpus(tmp_path / "x.txt", tokenizer, cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match="block_size 4"):
        pack_corpus(tmp_path / "x.txt", tokenizer, block_size=4, cache=tmp_path / "cache")


def test_cache_folder_from_the_environment(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setenv("MADX_CACHE", str(tmp_path / "here"))
    file, _ = corpus(tmp_path)
    blocks = pack_corpus(file, tokenizer, block_size=32)
    assert blocks.folder.parent == tmp_path / "here" / "blocks"
    assert json.loads((blocks.folder / "blocks.json").read_text())["settings"]["block_size"] == 32


def test_bert_frame(tmp_path, bert_tokenizer):
    (tmp_path / "x.txt").write_text("\n".join(f"the cats sat on {'the ' * i}" for i in range(30)))
    blocks = pack_corpus(tmp_path / "x.txt", bert_tokenizer, block_size=16, cache=tmp_path / "cache")
    assert blocks[0][0] == bert_tokenizer.cls_token_id and blocks[0][-1] == bert_tokenizer.sep_token_id


def test_no_warning_about_long_sequences(tmp_path, tokenizer, caplog):
    """The tokenizer's maximum is 16, which packing exceeds on purpose."""
    text_ids(tokenizer, ["abc " * 100])
    assert caplog.text == "" and tokenizer.model_max_length == 16


def test_fingerprint(tokenizer, bert_tokenizer):
    from copy import deepcopy

    found = tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(deepcopy(tokenizer)) == found != tokenizer_fingerprint(bert_tokenizer)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    special = [["bos", 0], ["eos", 2], ["unk", 3], ["sep", 2], ["pad", 1], ["cls", 0], ["mask", 4]]
    plain = json.dumps([[list(item) for item in vocabulary], special])
    assert found == hashlib.sha256(plain.encode()).hexdigest()
    larger = deepcopy(tokenizer)
    assert tokenizer_fingerprint(larger) == found
    larger.add_tokens(["new"])
    assert tokenizer_fingerprint(larger) != found


def test_frame_needs_a_pair(bert_tokenizer):
    from copy import deepcopy

    bare = deepcopy(bert_tokenizer)
    bare.sep_token = None
    with pytest.raises(BaseError, match="it needs cls and sep, or bos and eos"):
        frame_of(bare)


def test_real_corpus(shared, real_tokenizer, tmp_path):
    blocks = pack_corpus(shared / "data/text/yor.txt", real_tokenizer, block_size=128, limit=3000, cache=tmp_path)
    assert blocks.stats.lines == 3000 and blocks.warnings() == []
    assert len(blocks) > 500 and 0.04 < len(blocks.held_out) / len(blocks) < 0.07
    assert len({row.tobytes() for row in blocks.held_out[:]} & {row.tobytes() for row in blocks.train[:]}) == 0
