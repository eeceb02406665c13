"""The tags that a task module can give, in the order of its head's outputs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from madx.errors import DataError, did_you_mean


@dataclass(frozen=True)
class LabelSet:
    """Tags in order: the place of a tag is its id. Equal when tags and order are equal.

    `seen` says where a tag was first met, as `file:line`; it plays no part in comparing.
    """

    tags: tuple[str, ...]
    seen: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self):
        if not self.tags or len(set(self.tags)) != len(self.tags):
            raise DataError(f"a label set needs tags, each once; it got {', '.join(self.tags) or '(none)'}.")

    @classmethod
    def from_sentences(cls, sentences: Iterable, *, source: str = "data") -> "LabelSet":
        """The tags of the sentences, sorted. Span tags (all are O, B-, I-): O first, and both B- and I- of each type.

        A type seen only as B- in training may well be longer than a word in a test.
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
        return {tag: i for i, tag in enumerate(self.tags)}

    @property
    def types(self) -> tuple[str, ...]:
        """The types of spans, in order; none for plain labels."""
        return tuple(dict.fromkeys(tag[2:] for tag in self.tags if tag != "O")) if self.are_spans else ()

    @property
    def are_spans(self) -> bool:
        return all(_is_span_tag(tag) for tag in self.tags)

    def encode(self, tags: Sequence[str]) -> list[int]:
        """Tags -> ids; DataError for a tag that is not in the set."""
        try:
            return [self.ids[tag] for tag in tags]
        except KeyError as error:
            raise DataError(
                f"tag {error.args[0]!r} is not in the label set; {did_you_mean(error.args[0], self.tags)}"
            ) from None

    def decode(self, ids: Iterable[int]) -> list[str]:
        return [self.tags[i] for i in ids]


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, start, end) of each span of IOB2 tags, end exclusive; a stray I- begins one, as CoNLL scores it.

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
    """Raise DataError when the data holds tags that the module cannot give; the text names both sides."""
    present = labels_of_data.seen or dict.fromkeys(labels_of_data.tags, "the data")
    lacking = [tag for tag in present if tag not in labels_of_module.ids]
    if lacking:
        raise DataError(
            "the data's labels are not those of the task module: "
            + ", ".join(f"{tag} (first in {present[tag]})" for tag in lacking)
            + f" cannot be given by the module. Labels of the module: {', '.join(labels_of_module.tags)}; of the data: "
            f"{', '.join(present)}. Evaluate on data with the module's labels, rename the tags, "
            "or train a task module on such data."
        )


def _is_span_tag(tag: str) -> bool:
    return tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)
