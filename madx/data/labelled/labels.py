"""Label sets: the tags that a task module can predict, in the order of its head's outputs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from madx.data.labelled.sentences import Sentence
from madx.errors import DataError, did_you_mean


@dataclass(frozen=True)
class LabelSet:
    """The tags in order; the place of a tag is its id. Two sets are equal when their tags and the order are equal.

    seen: where a tag was first found, as `file:line`; it is left out of comparisons.
    """

    tags: tuple[str, ...]
    seen: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.tags or len(set(self.tags)) != len(self.tags):
            raise DataError(f"A label set needs tags, each of them once; given: {', '.join(self.tags) or '(none)'}.")

    @classmethod
    def from_sentences(cls, sentences: Iterable[Sentence], *, source: str = "data") -> "LabelSet":
        """Collect the tags of sentences, sorted; `source` is the name of the data in `seen`.

        For tags of spans (all are O, B-TYPE or I-TYPE) the set begins with O and holds B- and I- of every type: an
        entity of a type that has one word in training may have several in a test.
        """
        seen: dict[str, str] = {}
        for sentence in sentences:
            for tag in sentence.tags:
                seen.setdefault(tag, f"{source}:{sentence.line}")
        if all(_is_span_tag(tag) for tag in seen):
            types = sorted({tag[2:] for tag in seen if tag != "O"})
            return cls(("O", *(f"{prefix}-{kind}" for kind in types for prefix in "BI")), seen)
        return cls(tuple(sorted(seen)), seen)

    def __len__(self) -> int:
        return len(self.tags)

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each tag."""
        return {tag: i for i, tag in enumerate(self.tags)}

    @property
    def types(self) -> tuple[str, ...]:
        """The types of spans in order; empty for plain labels."""
        return tuple(dict.fromkeys(tag[2:] for tag in self.tags if tag != "O")) if self.are_spans else ()

    @property
    def are_spans(self) -> bool:
        """True if all tags are O, B-TYPE or I-TYPE."""
        return all(_is_span_tag(tag) for tag in self.tags)

    def encode(self, tags: Sequence[str]) -> list[int]:
        """Return the ids of tags. Raises DataError for a tag that is not in the set."""
        try:
            return [self.ids[tag] for tag in tags]
        except KeyError as error:
            raise DataError(
                f"tag {error.args[0]!r} is not in the label set; {did_you_mean(error.args[0], self.tags)}"
            ) from None

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Return the tags of ids."""
        return [self.tags[i] for i in ids]


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return (type, start, end) of each span of IOB2 tags, `end` exclusive.

    An I- that continues nothing begins a span, as in the evaluation script of CoNLL.

    >>> spans(["B-PER", "I-PER", "O", "I-LOC"])
    [('PER', 0, 2), ('LOC', 3, 4)]
    """
    found: list[tuple[str, int, int]] = []
    for i, tag in enumerate(tags):
        if tag == "O":
            continue
        kind = tag[2:]
        if tag[0] == "I" and found and found[-1][0] == kind and found[-1][2] == i:
            found[-1] = (kind, found[-1][1], i + 1)
        else:
            found.append((kind, i, i + 1))
    return found


def require(labels_of_module: LabelSet, labels_of_data: LabelSet) -> None:
    """Raise DataError if the data holds tags that the module cannot predict."""
    present = labels_of_data.seen or dict.fromkeys(labels_of_data.tags, "the data")
    lacking = [f"{tag} (first in {place})" for tag, place in present.items() if tag not in labels_of_module.ids]
    if lacking:
        raise DataError(
            f"The data has labels that the task module cannot predict: {', '.join(lacking)}. "
            f"Labels of the module: {', '.join(labels_of_module.tags)}; of the data: {', '.join(present)}. "
            "Evaluate on data with the module's labels, rename the tags, or train a task module on such data."
        )


def _is_span_tag(tag: str) -> bool:
    return tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)
