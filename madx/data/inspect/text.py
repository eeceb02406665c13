"""A report on a corpus and how a tokenizer cuts it, made in one pass and in bounded memory.

Duplicate lines are counted by hashes of 8 bytes. Up to a bound all hashes are kept; beyond it only those that end in k
zero bits, where k grows as needed (adaptive sampling, Flajolet 1990). All copies of a line have the same hash, so the
share of duplicates among the kept lines is an estimate of that in the corpus.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from madx.data.text.packing import MANY_UNKNOWN, REPORT_EVERY, TINY, CorpusStats, in_batches
from madx.data.text.tokenizing import frame_of, text_ids
from madx.data.words import count_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: distinct lines whose hashes are kept at most, in about 100 MB
KEPT_LINES = 1_000_000
#: characters unknown to the tokenizer that a report lists
LISTED = 20
#: the share of the letters below which a second script is taken for quotations and names
FEW = 0.02
MANY_PIECES, MANY_DUPLICATES = 3.0, 0.1  # pieces of a word, share of duplicate lines: above them, a warning
_FORMS = re.compile(
    r" (?:CAPITAL|SMALL|MODIFIER|FINAL|VOWEL|LETTER|SYLLABLE|SYLLABICS|SIGN|IDEOGRAPH|UNIFIED|COMPATIBILITY)\b.*"
)
log = logging.getLogger("madx")


class Duplicates:
    """Counts the lines that are copies of an earlier one, in bounded memory."""

    def __init__(self, kept: int = KEPT_LINES):
        self.kept, self.bits = kept, 0
        self.counts: dict[int, int] = {}

    def add(self, text: str) -> None:
        """Count one line."""
        key = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
        if key & ((1 << self.bits) - 1):
            return
        self.counts[key] = self.counts.get(key, 0) + 1
        while len(self.counts) > self.kept:
            self.bits += 1
            mask = (1 << self.bits) - 1
            self.counts = {k: n for k, n in self.counts.items() if not k & mask}

    @property
    def exact(self) -> bool:
        """True if every line was counted; otherwise `share` is an estimate from a sample."""
        return self.bits == 0

    @property
    def share(self) -> float:
        """The share (0..1) of the lines that are copies of an earlier one."""
        total = sum(self.counts.values())
        return (total - len(self.counts)) / total if total else 0.0


@dataclass(frozen=True)
class TextReport:
    """A corpus as a tokenizer cuts it. Shares are 0..1.

    unknown, unknown_rate: tokens that are unknown, and their share of all tokens.
    characters: characters without white space; coverage: the share of them that the tokenizer knows.
    unknown_characters: those it does not know, with their counts, the most frequent first.
    scripts: the share of each script among the letters, the largest first.
    duplicates: the share of lines that are copies of an earlier one, an estimate unless `duplicates_exact`.
    longest: tokens of the longest line; broken: replacement characters U+FFFD; controls: control characters.
    """

    lines: int
    words: int
    tokens: int
    unknown: int
    unknown_rate: float
    pieces_per_word: float
    characters: int
    coverage: float
    unknown_characters: dict[str, int]
    scripts: dict[str, float]
    duplicates: float
    duplicates_exact: bool
    longest: int
    broken: int
    controls: int
    warnings: list[str] = field(default_factory=list)


def inspect_text(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    watch: Callable[[str], None] | None = None,
    kept: int = KEPT_LINES,
) -> TextReport:
    """Read the lines of a corpus once and report on them.

    watch: a function that is called with each line, for a search in the same pass.
    kept: distinct lines whose hashes are kept at most, to count duplicates.
    """
    characters: Counter[str] = Counter()
    duplicates = Duplicates(kept)
    stats, longest = _count(texts, tokenizer, watch=watch, characters=characters, duplicates=duplicates)
    visible = {c: n for c, n in characters.items() if not c.isspace()}
    lacking = unknown_characters(visible, tokenizer)
    total = sum(visible.values())
    report = TextReport(
        lines=stats.lines,
        words=stats.words,
        tokens=stats.tokens,
        unknown=stats.unknown,
        unknown_rate=stats.unknown_rate,
        pieces_per_word=stats.pieces_per_word,
        characters=total,
        coverage=1 - sum(lacking.values()) / max(total, 1),
        unknown_characters=dict(list(lacking.items())[:LISTED]),
        scripts=scripts(visible),
        duplicates=duplicates.share,
        duplicates_exact=duplicates.exact,
        longest=longest,
        broken=characters["\ufffd"],
        controls=sum(n for c, n in visible.items() if unicodedata.category(c) == "Cc"),
    )
    report.warnings.extend([*_warnings_of_tokenizer(report), *_warnings_of_text(report)])
    return report


def _count(
    texts: Iterable[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    watch: Callable[[str], None] | None,
    characters: Counter[str],
    duplicates: Duplicates,
) -> tuple[CorpusStats, int]:
    """Read all lines into `characters` and `duplicates`; return the counts and the tokens of the longest line."""
    lines = words = tokens = unknown = longest = 0
    unknown_id, reported = frame_of(tokenizer).unknown, time.monotonic()
    for batch in in_batches(texts):
        for text, ids in zip(batch, text_ids(tokenizer, batch), strict=True):
            duplicates.add(text)
            characters.update(text)
            if watch is not None:
                watch(text)
            words, tokens, longest = words + count_words(text), tokens + len(ids), max(longest, len(ids))
            unknown += ids.count(unknown_id) if unknown_id is not None else 0
        lines += len(batch)
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            log.info("inspecting: %s lines, %s tokens so far", f"{lines:,}", f"{tokens:,}")
    return CorpusStats(tokens=tokens, words=words, lines=lines, unknown=unknown), longest


def unknown_characters(counts: dict[str, int], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the characters that give an unknown token when they stand alone, the most frequent first."""
    unknown, known = tokenizer.unk_token_id, sorted(counts)
    if unknown is None or not known:
        return {}
    lacking = [c for c, ids in zip(known, text_ids(tokenizer, known), strict=True) if unknown in ids]
    return dict(sorted(((c, counts[c]) for c in lacking), key=lambda item: (-item[1], item[0])))


def script_of(character: str) -> str | None:
    """Return the script of a letter, which is the start of its Unicode name, or None for what is not a letter.

    >>> script_of("ж"), script_of("語"), script_of("7")
    ('Cyrillic', 'CJK', None)
    """
    if unicodedata.category(character) not in ("Lu", "Ll", "Lt", "Lo"):
        return None
    name = _FORMS.sub("", unicodedata.name(character, "unnamed"))
    return name if name == "CJK" else name.capitalize()


def scripts(counts: dict[str, int]) -> dict[str, float]:
    """Return the share of each script among the letters, the largest first."""
    found: Counter[str] = Counter()
    for character, count in counts.items():
        if script := script_of(character):
            found[script] += count
    total = sum(found.values())
    return {script: count / total for script, count in found.most_common()}


def name_of(character: str) -> str:
    """Return a character with its code and its Unicode name.

    >>> name_of("ж")
    'ж U+0436 CYRILLIC SMALL LETTER ZHE'
    """
    shown = character if character.isprintable() else " "
    return f"{shown} U+{ord(character):04X} {unicodedata.name(character, '(no name)')}"


def _warnings_of_tokenizer(r: TextReport) -> list[str]:
    found = []
    if r.unknown_rate > MANY_UNKNOWN:
        most = ", ".join(name_of(c) for c in list(r.unknown_characters)[:3])
        found.append(
            f"{r.unknown_rate:.1%} of the tokens are unknown to the tokenizer{most and f' (most of all {most})'}: the "
            "module cannot learn them. Clean the text, transliterate it, or take a base whose tokenizer covers the "
            "language."
        )
    if r.pieces_per_word > MANY_PIECES:
        found.append(
            f"{r.pieces_per_word:.1f} pieces a word: the tokenizer hardly knows the language, or the language is "
            "written without spaces. Expect longer runs and lower scores. Another base may cut the words better: "
            "inspect with --base OTHER."
        )
    return found


def _warnings_of_text(r: TextReport) -> list[str]:
    found = []
    if r.duplicates > MANY_DUPLICATES:
        found.append(
            f"{r.duplicates:.0%} of the lines are copies of another line, which the module would learn by heart. "
            "Remove the copies, for example with: sort -u."
        )
    odd = {script: share for script, share in list(r.scripts.items())[1:] if share > FEW}
    if odd:
        rest = ", ".join(f"{share:.1%} {script}" for script, share in odd.items())
        found.append(
            f"{next(iter(r.scripts))} is the main script, but the letters are also {rest}: does the corpus hold text "
            "in other languages? Keep the lines in the language alone, unless it is written in these scripts."
        )
    if r.broken:
        found.append(
            f"{r.broken:,} replacement characters (U+FFFD): the text was decoded with a wrong encoding somewhere. Take "
            "the original again."
        )
    if r.controls:
        found.append(
            f"{r.controls:,} control characters: remove them, for example by: tr -d '\\000-\\010\\013\\014\\016-\\037'."
        )
    if r.tokens < TINY:
        found.append(
            f"The corpus is tiny: {r.tokens:,} tokens. With less than {TINY:,} a language module mostly memorises the "
            "text: add text, train for fewer steps, and trust the score on held-out text, not the training loss."
        )
    return found
