"""Blocks of token ids for masked language modelling, `<s> ... </s>` without padding, in a cache on disk.

A corpus has a folder KEY/ in the cache, with `train.npy`, `held_out.npy` `(blocks, block_size)` and `blocks.json`. The
key is a hash of the files' contents, the tokenizer and the settings, so a change of any of them makes a new folder.
`blocks.json` holds the sha256 of both arrays, under a checksum: what was damaged on the disk is packed anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from madx.base.fingerprints import tokenizer_fingerprint
from madx.checksums import CHECKSUM, checksum, fault_of_checksum, parse_json
from madx.data.text.corpora import Source, corpus_files, read_corpus, sha256_of
from madx.data.text.packing import MANY_UNKNOWN, TINY, CorpusStats, pack, tokenise
from madx.data.text.tokenizing import frame_of
from madx.errors import ConfigError, DataError
from madx.files.places import cache_root
from madx.files.reading import why_no_file
from madx.files.reasons import reason
from madx.files.writing import temporary_folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = 2  # to be raised when reading or packing changes what is written
RECORD, ARRAYS = "blocks.json", ("train.npy", "held_out.npy")
log = logging.getLogger(__name__)


class BlockArray:
    """The blocks of one side. `[i]` gives int64 `(block_size,)`, a list or a slice int64 `(rows, block_size)`."""

    def __init__(self, stored: np.ndarray):
        self.stored = stored  # a memory map, with two or four bytes for each id

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self.stored[rows], dtype=np.int64)


@dataclass(frozen=True)
class Blocks:
    """A packed corpus. `len()` and `[i]` are those of the blocks to train on."""

    train: BlockArray
    held_out: BlockArray
    stats: CorpusStats
    folder: Path

    @property
    def block_size(self) -> int:
        """Tokens in a block."""
        return self.train.stored.shape[1]

    def __len__(self) -> int:
        return len(self.train)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return self.train[rows]

    def warnings(self) -> list[str]:
        """Return what a user should know before training on this corpus; the list is empty if all is well."""
        found = []
        if self.stats.unknown_rate > MANY_UNKNOWN:
            found.append(
                f"{self.stats.unknown_rate:.1%} of the tokens are unknown to the tokenizer: the script or some "
                "characters are not in its vocabulary, and the module cannot learn them. Clean the text, transliterate "
                "it, or take a base whose tokenizer covers the language."
            )
        if self.stats.tokens < TINY:
            found.append(
                f"The corpus is tiny: {self.stats.tokens:,} tokens in {self.stats.lines:,} lines. With less than "
                f"{TINY:,} a language module mostly memorises the text: add text, train for fewer steps, and trust the "
                "score on held-out text, not the training loss."
            )
        return found


def pack_corpus(
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    block_size: int = 256,
    text_key: str = "text",
    limit: int | None = None,
    held_out_share: float = 0.05,
    held_out_most: int = 500,
    cache: Path | str | None = None,
    refresh: bool = False,
) -> Blocks:
    """Read, tokenise and pack a corpus, or take it from the cache; the log says which.

    source, text_key, limit: as for `read_corpus`.
    block_size: tokens in a block, with the frame; at least 8.
    held_out_share: the share of the tokens that is held out; held_out_most: held-out blocks at most.
    cache: a folder; by default $MADX_CACHE/blocks, or ~/.cache/madx/blocks.
    refresh: whether the corpus is packed anew in any case. A `datasets` name needs it when the data set has changed,
        for its key is made of the name alone.

    Raises ConfigError for impossible settings, and DataError for a corpus that cannot be read or is too small.
    """
    if block_size < 8 or not 0 < held_out_share < 1 or held_out_most < 1:
        raise ConfigError(
            f"block_size {block_size}, held_out_share {held_out_share}, held_out_most {held_out_most}: "
            "allowed are at least 8 tokens, a share between 0 and 1, and at least 1 block."
        )
    settings = {
        "version": VERSION,
        "block_size": block_size,
        "share": held_out_share,
        "most": held_out_most,
        "text_key": text_key,
        "limit": limit,
        "files": [file.sha256 or file.path for file in corpus_files(source)],
        "tokenizer": [tokenizer_fingerprint(tokenizer), _behaviour(tokenizer)],
    }
    folder = _cache_root(cache) / hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    if not refresh and _only_files(folder) and (blocks := _open(folder)):
        log.info("%s: tokenised before, %s blocks read from the cache %s", source, f"{len(blocks):,}", folder)
        return blocks
    _write_folder(folder, lambda work, scratch: _fill(work, scratch, source, tokenizer, settings))
    blocks = _open(folder)
    if blocks is None:
        raise DataError(f"{folder}: the packed blocks cannot be read back. Set another cache folder, on a sound disk.")
    log.info("%s: packed into %s blocks, kept in %s", source, f"{len(blocks):,}", folder)
    return blocks


def _fill(
    work: Path, scratch: Path, source: Source, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> None:
    """Write the files of a cache folder to `work`; `scratch` is for the files of pass 1."""
    texts = read_corpus(source, text_key=settings["text_key"], limit=settings["limit"])
    flat, frame = tokenise(texts, tokenizer, scratch), frame_of(tokenizer)
    sizes = {"block_size": settings["block_size"], "share": settings["share"], "most": settings["most"]}
    try:
        pack(flat, work, frame=frame, **sizes)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    digests = {name: sha256_of(work / name) for name in ARRAYS}
    record: dict[str, Any] = {"settings": settings, "stats": asdict(flat.stats), "sha256": digests}
    record[CHECKSUM] = checksum(record)
    (work / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _cache_root(cache: Path | str | None) -> Path:
    return Path(cache) if cache else cache_root() / "blocks"


def _behaviour(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of the rules by which the tokenizer cuts text, which its vocabulary alone does not tell."""
    if not tokenizer.is_fast:
        return type(tokenizer).__name__
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    rules.update(truncation=None, padding=None)  # these belong to the last call, not to the tokenizer
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


def _open(folder: Path) -> Blocks | None:
    """Return the blocks of a cache folder, or None, with a notice, if they are damaged; None if there are none."""
    if not os.path.lexists(folder):
        return None
    try:
        record = parse_json((folder / RECORD).read_bytes())
        if fault := fault_of_checksum(record):
            old = " (an older madx wrote none)" if fault == "missing" else ""
            raise ValueError(f"checksum of {RECORD}: {fault}{old}")
        for name in ARRAYS:
            if sha256_of(folder / name) != record["sha256"][name]:
                raise ValueError(f"{name} is not as it was written")
        stats = CorpusStats(**record["stats"])
        train, held_out = (np.load(folder / name, mmap_mode="r") for name in ARRAYS)
        if any(array.ndim != 2 or array.dtype.kind not in "iu" for array in (train, held_out)):
            raise ValueError("the arrays hold no blocks")
    except Exception as error:  # a foreign file fails in many ways, and each of them means the same
        why = f"{type(error).__name__}: {error}"
        log.warning("%s: the blocks in the cache are damaged (%.300s); the corpus is packed anew.", folder, why)
        return None
    return Blocks(train=BlockArray(train), held_out=BlockArray(held_out), stats=stats, folder=folder)


def _only_files(folder: Path) -> bool:
    """Tell whether a cache folder holds regular files alone, as far as it is there: a named pipe would never end."""
    found = {path: why_no_file(path) for path in folder.iterdir()} if folder.is_dir() else {}
    faults = [f"{path.name} is damaged ({fault})" for path, fault in found.items() if fault]
    if faults:
        log.warning("%s: %s; the corpus is packed anew.", folder, ", ".join(faults))
    return not faults


def _write_folder(folder: Path, fill: Callable[[Path, Path], None]) -> None:
    """Call `fill(work, scratch)` and rename `work` to `folder`, so that nobody ever sees an incomplete folder."""
    try:
        with temporary_folder(folder) as temporary:
            work, scratch = temporary / "work", temporary / "scratch"
            work.mkdir()
            scratch.mkdir()
            fill(work, scratch)
            _replace_folder(work, folder, temporary / "old")
    except OSError as error:
        raise DataError(
            f"{folder}: the packed blocks cannot be written: {reason(error)}. Free disk space or set another cache "
            "folder."
        ) from error


def _replace_folder(new: Path, folder: Path, aside: Path) -> None:
    with suppress(FileNotFoundError):
        folder.rename(aside)  # an old one; memory maps of its files stay readable
    try:
        new.rename(folder)
    except OSError:
        if not folder.exists():  # otherwise another process was faster, and its folder holds the same
            raise
