"""A report on a labelled set: labels, lengths, invalid sequences of tags, and sentences that contradict each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from madx.data.labelled.sentences import Sentence
from madx.data.labelled.spans import spans
from madx.data.labelled.tags import Inventory, TagFault, check_forms, detect_scheme, to_iob2
from madx.data.labelled.windows import word_pieces
from madx.data.text.packing import MANY_UNKNOWN

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: invalid sequences whose places a report lists
LISTED = 10
#: gold labels of a type below which its score is mostly chance
FEW = 30
#: the share of sentences longer than a window above which there is a warning
MANY_WINDOWS = 0.01
#: the share of names whose first word has several pieces above which another pooling is recommended: of the development
#: sets of nine languages, read by XLM-R's pieces, Shona, Xhosa, Zulu and Yoruba have 0.81 to 0.92, others at most 0.57
MANY_DIVIDED = 0.75


@dataclass(frozen=True)
class Lengths:
    """The lengths of sentences; `high` is the 95 % quantile."""

    mean: float
    median: float
    high: float
    longest: int


@dataclass(frozen=True)
class LabelReport:
    """A labelled set.

    labels: the count of each type of span, or of each plain tag, the most frequent first.
    scheme: the scheme of the spans, or the name of the inventory; bare: sentences without any span.
    length, pieces: lengths of the sentences in words and in pieces; windows: sentences longer than a window.
    divided: the share (0..1) of the words that have more than one piece; divided_names: that of the first words of
    spans, None without spans.
    unknown_rate: the share (0..1) of the pieces that are unknown.
    invalid: sentences with invalid tags; faults: the places of the first ones, and what is wrong there.
    repeated: sentences that occurred before; contradictory: those of them whose tags are different.
    """

    path: str
    sentences: int
    words: int
    labels: dict[str, int]
    scheme: str
    bare: int
    length: Lengths
    pieces: Lengths
    pieces_per_word: float
    divided: float
    divided_names: float | None
    unknown_rate: float
    windows: int
    invalid: int
    faults: list[str]
    repeated: int
    contradictory: int
    warnings: list[str] = field(default_factory=list)


def inspect_labels(
    sentences: Sequence[Sentence],
    tokenizer: PreTrainedTokenizerBase,
    *,
    path: str,
    inventory: Inventory | None = None,
    scheme: str = "auto",
    max_length: int = 256,
) -> LabelReport:
    """Report on sentences whose tags are as in the file (read with scheme `none`).

    path: the name of the set in the report. inventory: the tags of a task without spans; None: the tags are spans.
    scheme: that of the spans, or `auto`. max_length: tokens of a window at most.
    """
    has_spans = inventory is None
    good, tags, scheme, faults = _spans(sentences, scheme) if inventory is None else _plain(sentences, inventory)
    counts: Counter[str] = Counter()
    for tags_of_sentence in tags:
        counts.update((kind for kind, _, _ in spans(tags_of_sentence)) if has_spans else tags_of_sentence)
    pieces = word_pieces(tokenizer, [s.tokens for s in sentences])
    lengths = [sum(map(len, words)) for words in pieces]
    unknown = sum(ids.count(tokenizer.unk_token_id) for words in pieces for ids in words)
    words = sum(len(s.tokens) for s in sentences)
    names = [len(pieces[n][start]) for n, found in zip(good, tags) for _, start, _ in spans(found)] if has_spans else []
    repeated, contradictory = _repeated(sentences)
    report = LabelReport(
        path=path,
        sentences=len(sentences),
        words=words,
        labels=dict(sorted(counts.items(), key=lambda i: (-i[1], i[0]))),
        scheme=scheme,
        bare=sum(not spans(s) for s in tags) if has_spans else 0,
        length=_lengths([len(s.tokens) for s in sentences]),
        pieces=_lengths(lengths),
        pieces_per_word=sum(lengths) / words,
        divided=sum(len(ids) > 1 for ids_of_words in pieces for ids in ids_of_words) / words,
        divided_names=sum(n > 1 for n in names) / len(names) if names else None,
        unknown_rate=unknown / max(sum(lengths), 1),
        windows=sum(n > max_length - 2 for n in lengths),
        invalid=len(faults),
        faults=faults[:LISTED],
        repeated=repeated,
        contradictory=contradictory,
    )
    report.warnings.extend([*_warnings_of_tags(report, spans=has_spans), *_warnings_of_words(report)])
    return report


#: the numbers of valid sentences, their tags, the scheme, the faults of the others
Found = tuple[list[int], list[Sequence[str]], str, list[str]]


def _place(sentence: Sentence, fault: TagFault) -> str:
    return f"sentence of line {sentence.line}, word {fault.index + 1} {sentence.tokens[fault.index]!r}: {fault}"


def _plain(sentences: Sequence[Sentence], inventory: Inventory) -> Found:
    """Check tags against an inventory; sentences with other tags are left out."""
    good: list[int] = []
    faults = []
    for number, sentence in enumerate(sentences):
        try:
            inventory.check(sentence.tags)
            good.append(number)
        except TagFault as fault:
            faults.append(_place(sentence, fault))
    return good, [sentences[n].tags for n in good], inventory.name, faults


def _spans(sentences: Sequence[Sentence], scheme: str) -> Found:
    """Bring tags to IOB2. Tags in invalid places are mended; sentences with malformed tags are left out."""
    formed, faults = [], {}
    for number, sentence in enumerate(sentences):
        try:
            check_forms(sentence.tags)
            formed.append(number)
        except TagFault as fault:
            faults[number] = _place(sentence, fault)
    scheme = detect_scheme(sentences[n].tags for n in formed) if scheme == "auto" else scheme
    for number in formed:
        try:
            to_iob2(sentences[number].tags, scheme)
        except TagFault as fault:
            faults[number] = _place(sentences[number], fault)
    mended: list[Sequence[str]] = [to_iob2(sentences[n].tags, scheme, repair=True) for n in formed]
    return formed, mended, scheme, [faults[n] for n in sorted(faults)]


def _lengths(values: list[int]) -> Lengths:
    return Lengths(
        mean=float(np.mean(values)),
        median=float(np.median(values)),
        high=float(np.quantile(values, 0.95)),
        longest=max(values),
    )


def _repeated(sentences: Sequence[Sentence]) -> tuple[int, int]:
    """Return the number of sentences that occurred before, and of those whose tags differ from the first ones."""
    first: dict[tuple[str, ...], tuple[str, ...]] = {}
    repeated = contradictory = 0
    for sentence in sentences:
        if sentence.tokens in first:
            repeated += 1
            contradictory += first[sentence.tokens] != sentence.tags
        else:
            first[sentence.tokens] = sentence.tags
    return repeated, contradictory


def _warnings_of_tags(r: LabelReport, *, spans: bool) -> list[str]:
    found = []
    if r.invalid:
        remedy = "read it with columns.repair=true" if spans else "choose another column"
        found.append(
            f"{r.invalid:,} of {r.sentences:,} sentences have tags that are not valid {r.scheme}: correct the file, or "
            f"{remedy}. First: {r.faults[0]}"
        )
    rare = [f"{label} ({count})" for label, count in r.labels.items() if count < FEW]
    if rare:
        found.append(
            f"fewer than {FEW} of {', '.join(rare)}: the score of so rare a label is mostly chance; do not rank by it."
        )
    if spans and not r.labels:
        found.append("no span at all: is it the column of the tags? Set columns.tag (counted from 0).")
    if r.contradictory:
        found.append(
            f"{r.contradictory:,} of {r.repeated:,} repeated sentences have other tags than before: they contradict "
            "each other. Correct them."
        )
    return found


def _warnings_of_words(r: LabelReport) -> list[str]:
    found = []
    if r.windows > MANY_WINDOWS * r.sentences:
        found.append(
            f"{r.windows / r.sentences:.1%} of the sentences get several windows: raise max_length if the base allows."
        )
    if r.unknown_rate > MANY_UNKNOWN:
        found.append(
            f"{r.unknown_rate:.1%} of the pieces are unknown to the tokenizer: replace these characters, or take "
            "another base."
        )
    if r.divided_names is not None and r.divided_names > MANY_DIVIDED:
        found.append(
            f"{r.divided_names:.0%} of the names begin with a word of several pieces, so its first piece may be a "
            "prefix and not the name: try train-task with pooling: last, which reads the label at the last piece."
        )
    return found
