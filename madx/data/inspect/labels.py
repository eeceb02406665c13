"""What a labelled set is like: labels, lengths, sequences that are not valid, sentences that contradict each other."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from madx.data.labelled.conll import Sentence
from madx.data.labelled.labels import spans
from madx.data.labelled.tags import Inventory, TagFault, check_forms, detect_scheme, to_iob2
from madx.data.labelled.windows import word_pieces
from madx.data.text.packing import MANY_UNKNOWN

#: places of invalid sequences that a report lists
LISTED = 10
#: gold labels of a type below which its score is mostly chance
FEW = 30
#: share of sentences longer than a window that is worth a word
MANY_WINDOWS = 0.01


@dataclass(frozen=True)
class Lengths:
    """Of the sentences: mean, median, 95 % quantile, longest."""

    mean: float
    median: float
    high: float
    longest: int


@dataclass(frozen=True)
class LabelReport:
    """A labelled set. labels: counts of spans by type, or of plain tags; scheme: how spans are written; bare: sentences
    without any span; invalid: sentences whose tags are not valid, with the first few places and what is wrong there;
    windows: sentences longer than a window; unknown_rate: share of the pieces; repeated: sentences that occur before;
    contradictory: those of them with other tags."""

    path: str
    sentences: int
    words: int
    labels: dict[str, int]
    scheme: str
    bare: int
    length: Lengths
    pieces: Lengths
    pieces_per_word: float
    unknown_rate: float
    windows: int
    invalid: int
    faults: list[str]
    repeated: int
    contradictory: int
    warnings: list[str] = field(default_factory=list)


def inspect_labels(
    sentences: Sequence[Sentence],
    tokenizer,
    *,
    path: str,
    inventory: Inventory | None = None,
    scheme: str = "auto",
    max_length: int = 256,
) -> LabelReport:
    """Report on sentences whose tags are as the file has them (read with scheme none).

    inventory: the tags of a task without spans; None: tags are spans in `scheme`.
    """
    tags, scheme, faults = _plain(sentences, inventory) if inventory is not None else _spans(sentences, scheme)
    counts: Counter[str] = Counter()
    for sentence in tags:
        counts.update(sentence if inventory is not None else (kind for kind, _, _ in spans(sentence)))
    bare = 0 if inventory is not None else sum(not spans(s) for s in tags)
    pieces = word_pieces(tokenizer, [s.tokens for s in sentences])
    in_pieces = [sum(map(len, words)) for words in pieces]
    unknown = sum(ids.count(tokenizer.unk_token_id) for words in pieces for ids in words)
    words = sum(len(s.tokens) for s in sentences)
    repeated, contradictory = _repeated(sentences)
    report = LabelReport(
        path=path,
        sentences=len(sentences),
        words=words,
        labels=dict(sorted(counts.items(), key=lambda i: (-i[1], i[0]))),
        scheme=scheme,
        bare=bare,
        length=_lengths([len(s.tokens) for s in sentences]),
        pieces=_lengths(in_pieces),
        pieces_per_word=sum(in_pieces) / words,
        unknown_rate=unknown / max(sum(in_pieces), 1),
        windows=sum(n > max_length - 2 for n in in_pieces),
        invalid=len(faults),
        faults=faults[:LISTED],
        repeated=repeated,
        contradictory=contradictory,
    )
    report.warnings.extend(_warnings(report, spans=inventory is None))
    return report


def _place(sentence: Sentence, fault: TagFault) -> str:
    return f"sentence of line {sentence.line}, word {fault.index + 1} {sentence.tokens[fault.index]!r}: {fault}"


def _plain(sentences: Sequence[Sentence], inventory: Inventory) -> tuple[list, str, list[str]]:
    good, faults = [], []
    for sentence in sentences:
        try:
            inventory.check(sentence.tags)
            good.append(sentence.tags)
        except TagFault as fault:
            faults.append(_place(sentence, fault))
    return good, inventory.name, faults


def _spans(sentences: Sequence[Sentence], scheme: str) -> tuple[list, str, list[str]]:
    """Tags in IOB2 (odd ones mended, sentences with malformed tags left out), the scheme, and the faults."""
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
    return (
        [to_iob2(sentences[n].tags, scheme, repair=True) for n in formed],
        scheme,
        [faults[n] for n in sorted(faults)],
    )


def _lengths(values: list[int]) -> Lengths:
    return Lengths(
        mean=float(np.mean(values)),
        median=float(np.median(values)),
        high=float(np.quantile(values, 0.95)),
        longest=max(values),
    )


def _repeated(sentences: Sequence[Sentence]) -> tuple[int, int]:
    """Sentences that occur before, and those of them whose tags differ from the first ones."""
    first: dict[tuple[str, ...], tuple[str, ...]] = {}
    counts: dict[bool, int] = defaultdict(int)
    for sentence in sentences:
        if sentence.tokens in first:
            counts[first[sentence.tokens] == sentence.tags] += 1
        else:
            first[sentence.tokens] = sentence.tags
    return sum(counts.values()), counts[False]


def _warnings(r: LabelReport, *, spans: bool) -> list[str]:
    found = []
    if r.invalid:
        remedy = (
            "correct the file, or read it with columns.repair=true"
            if spans
            else "correct the file, or choose another column"
        )
        found.append(
            f"{r.invalid:,} of {r.sentences:,} sentences have tags that are not valid {r.scheme}: {remedy}. First: {r.faults[0]}"
        )
    rare = [f"{label} ({count})" for label, count in r.labels.items() if count < FEW]
    if rare:
        found.append(
            f"fewer than {FEW} of {', '.join(rare)}: the score of so rare a label is mostly chance; do not rank by it."
        )
    if spans and not r.labels:
        found.append("no span at all: is it the column of the tags? Set columns.tag (counted from 0).")
    if r.windows > MANY_WINDOWS * r.sentences:
        found.append(
            f"{r.windows / r.sentences:.1%} of the sentences get several windows: raise max_length if the base allows."
        )
    if r.contradictory:
        found.append(
            f"{r.contradictory:,} of {r.repeated:,} repeated sentences have other tags than before: they contradict; mend them."
        )
    if r.unknown_rate > MANY_UNKNOWN:
        found.append(
            f"{r.unknown_rate:.1%} of the pieces are unknown to the tokenizer: normalise these characters, or take another base."
        )
    return found
