"""Label sets: the tags that a task module can predict, in the order of its head's outputs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from madx.data.labelled.sentences import Sentence
from madx.data.labelled.tags import is_iob2
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
        if all(is_iob2(tag) for tag in seen):
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
        return all(is_iob2(tag) for tag in self.tags)

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


def require(labels_of_module: LabelSet, labels_of_data: LabelSet) -> None:
    """Raise DataError if the data holds tags that the module cannot predict; the message names the settings for it."""
    present = labels_of_data.seen or dict.fromkeys(labels_of_data.tags, "the data")
    lacking = {tag: place for tag, place in present.items() if tag not in labels_of_module.ids}
    if lacking:
        listed = ", ".join(f"{tag} (first in {place})" for tag, place in lacking.items())
        raise DataError(
            f"The data has labels that the task module cannot predict: {listed}. "
            f"Labels of the module: {', '.join(labels_of_module.tags)}; of the data: {', '.join(present)}. "
            f"{_way_out(tuple(lacking), labels_of_module)}"
        )


def _way_out(lacking: Sequence[str], labels: LabelSet) -> str:
    """Return what to do about tags that a module cannot predict."""
    if not labels.are_spans or not all(map(is_iob2, lacking)):
        return "Evaluate on data with the module's labels, or train a task module on such data."
    types = list(dict.fromkeys(tag[2:] for tag in lacking))
    own = next(iter(labels.types), "TYPE")
    near = {kind: next((t for t in labels.types if t.casefold()[:3] == kind.casefold()[:3]), own) for kind in types}
    return (
        f"Set columns.ignore=[{', '.join(types)}] to leave these types out of the scores, or "
        f"columns.map={{{', '.join(f'{kind}: {to}' for kind, to in near.items())}}} to rename them to types that the "
        "module has, or train a task module on such data."
    )
