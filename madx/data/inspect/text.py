"""What a corpus is like for a tokenizer, in one pass and with memory for a batch of lines and bounded tables.

Lines are counted as duplicates by 8-byte hashes. Up to a bound all are kept; above it only those whose hash ends in k zero
bits, with k growing as needed (adaptive sampling, Flajolet 1990). All copies of a kept line are seen, so the share of
duplicates among kept lines estimates that of the corpus.
"""

import hashlib
import logging
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from madx.data.text.packing import MANY_UNKNOWN, TINY, CorpusStats, in_batches
from madx.data.text.tokenizing import frame_of, text_ids

#: distinct lines whose hashes are kept at most: some 100 MB
KEPT_LINES = 1_000_000
#: characters unknown to the tokenizer that a report lists
LISTED = 20
#: a script (or a character) below this share of the letters (of the text) is the business of a quotation or a name
FEW = 0.02
MANY_PIECES, MANY_DUPLICATES = 3.0, 0.1
_FORMS = re.compile(
    r" (?:CAPITAL|SMALL|MODIFIER|FINAL|VOWEL|LETTER|SYLLABLE|SYLLABICS|SIGN|IDEOGRAPH|UNIFIED|COMPATIBILITY)\b.*"
)
log = logging.getLogger("madx")


class Duplicates:
    """Counts how many lines are copies of another, in bounded memory."""

    def __init__(self, kept: int = KEPT_LINES):
        self.kept, self.bits = kept, 0
        self.counts: dict[int, int] = {}

    def add(self, text: str) -> None:
        """Take one line into account."""
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
        """Whether every line was counted; otherwise `share` is an estimate from a sample."""
        return self.bits == 0

    @property
    def share(self) -> float:
        """Copies beyond the first of each line / lines, 0..1."""
        total = sum(self.counts.values())
        return (total - len(self.counts)) / total if total else 0.0


@dataclass(frozen=True)
class TextReport:
    """A corpus under a tokenizer. Shares are 0..1.

    unknown_rate: of the pieces; coverage: share of the characters, white space aside, that the tokenizer knows;
    unknown_characters: those that it does not, with their number, most frequent first; scripts: share of the letters;
    duplicates: share of the lines that repeat another (an estimate unless `duplicates_exact`); longest: tokens of the
    longest line; broken: replacement characters U+FFFD; controls: control characters.
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
    texts: Iterable[str], tokenizer, *, watch: Callable[[str], None] | None = None, kept: int = KEPT_LINES
) -> TextReport:
    """Read lines once and report on them; `watch` is called with each line (for a search in the same pass)."""
    characters: Counter[str] = Counter()
    duplicates, said = Duplicates(kept), time.monotonic()
    lines = words = tokens = unknown = longest = 0
    unknown_id = frame_of(tokenizer).unknown
    for batch in in_batches(texts):
        for text, ids in zip(batch, text_ids(tokenizer, batch), strict=True):
            duplicates.add(text)
            characters.update(text)
            if watch is not None:
                watch(text)
            words, tokens, longest = words + len(text.split()), tokens + len(ids), max(longest, len(ids))
            unknown += ids.count(unknown_id) if unknown_id is not None else 0
        lines += len(batch)
        if time.monotonic() - said > 10:
            said = time.monotonic()
            log.info("inspecting: %s lines, %s tokens so far", f"{lines:,}", f"{tokens:,}")
    stats = CorpusStats(tokens=tokens, words=words, lines=lines, unknown=unknown)
    visible = {c: n for c, n in characters.items() if not c.isspace()}
    lacking = unknown_characters(visible, tokenizer)
    total = sum(visible.values())
    report = TextReport(
        lines=lines,
        words=words,
        tokens=tokens,
        unknown=unknown,
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
    report.warnings.extend(_warnings(report))
    return report


def unknown_characters(counts: dict[str, int], tokenizer) -> dict[str, int]:
    """Those characters that, standing alone, come out as the unknown token, most frequent first."""
    unknown, known = tokenizer.unk_token_id, sorted(counts)
    if unknown is None or not known:
        return {}
    lacking = [c for c, ids in zip(known, text_ids(tokenizer, known), strict=True) if unknown in ids]
    return dict(sorted(((c, counts[c]) for c in lacking), key=lambda item: (-item[1], item[0])))


def script_of(character: str) -> str | None:
    """The script of a letter as its Unicode name begins: `LATIN SMALL LETTER A` -> `Latin`; None for what is no letter.

    >>> script_of("ж"), script_of("語"), script_of("7")
    ('Cyrillic', 'CJK', None)
    """
    if unicodedata.category(character) not in ("Lu", "Ll", "Lt", "Lo"):
        return None
    name = _FORMS.sub("", unicodedata.name(character, "unnamed"))
    return name if name == "CJK" else name.capitalize()


def scripts(counts: dict[str, int]) -> dict[str, float]:
    """Share of each script among the letters, largest first."""
    found: Counter[str] = Counter()
    for character, count in counts.items():
        if script := script_of(character):
            found[script] += count
    total = sum(found.values())
    return {script: count / total for script, count in found.most_common()}


def name_of(character: str) -> str:
    """`ж U+0436 CYRILLIC SMALL LETTER ZHE`."""
    return f"{character if character.isprintable() else ' '} U+{ord(character):04X} {unicodedata.name(character, '(no name)')}"


def _warnings(r: TextReport) -> list[str]:
    """What is worth a look before training, and what to do."""
    found = []
    if r.unknown_rate > MANY_UNKNOWN:
        most = ", ".join(name_of(c) for c in list(r.unknown_characters)[:3])
        found.append(
            f"{r.unknown_rate:.1%} of the tokens are unknown to the tokenizer{f' (most of all {most})' if most else ''}: the module "
            "cannot learn them. Clean the text, transliterate it, or take a base whose tokenizer covers the language."
        )
    if r.pieces_per_word > MANY_PIECES:
        found.append(
            f"{r.pieces_per_word:.1f} pieces a word: the tokenizer hardly knows the language (or it writes no spaces). Expect longer "
            "runs and weaker scores; another base may cut the words better: inspect with --base OTHER."
        )
    if r.duplicates > MANY_DUPLICATES:
        found.append(
            f"{r.duplicates:.0%} of the lines repeat another one: the module would learn them by heart. Remove the copies, for "
            "example with: sort -u."
        )
    odd = {s: share for s, share in list(r.scripts.items())[1:] if share > FEW}
    if odd:
        rest = ", ".join(f"{share:.1%} {script}" for script, share in odd.items())
        found.append(
            f"{next(iter(r.scripts))} is the main script, but of the letters are also {rest}: is there text of other languages in it? "
            "Keep the language's own lines, unless it is written so."
        )
    if r.broken:
        found.append(
            f"{r.broken:,} replacement characters (U+FFFD): the text was decoded wrongly somewhere. Get the original again."
        )
    if r.controls:
        found.append(
            f"{r.controls:,} control characters: strip them, for example with: tr -d '\\000-\\010\\013\\014\\016-\\037'."
        )
    if r.tokens < TINY:
        found.append(
            f"tiny: {r.tokens:,} tokens. Below {TINY:,} a language module mostly memorises: add text, train for fewer "
            "steps, and trust the held-out score, not the training loss."
        )
    return found
