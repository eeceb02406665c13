"""Leakage: sentences of labelled data that occur in a corpus or in another set, too.

Two texts are the same if their letters, with their marks, and their digits are, without regard to case. A sentence is
found wherever all of it stands inside a line, so a line may be a document. Only the labelled sentences are in memory,
never the corpus.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from madx.data.labelled.sentences import Sentence
from madx.data.words import letters

#: letters and digits of a sentence below which finding it again means nothing ("Thank you.")
LEAST = 20


@dataclass(frozen=True)
class Overlap:
    """The sentences of the set `data` that were found in `source`, the corpus or another set.

    found: their number; of: the number of sentences that are long enough to be looked for.
    lines: the places of the found ones in the file of `data`; example: one of them.
    """

    data: str
    source: str
    found: int
    of: int
    lines: list[int]
    example: str

    @property
    def share(self) -> float:
        """The share (0..1) of the sentences that were found."""
        return self.found / self.of if self.of else 0.0


class SentenceIndex:
    """Labelled sentences, by the name of their set, that are looked for in lines of text."""

    def __init__(self, sets: dict[str, Sequence[Sentence]]):
        self.sets = sets
        self._starts: dict[str, list[str]] = {}  # the first letters -> the letters of whole sentences
        self._owners: dict[str, list[tuple[str, int]]] = {}  # the letters of a sentence -> its places (set, index)
        self._found: set[str] = set()
        for name, sentences in sets.items():
            for number, sentence in enumerate(sentences):
                text = letters("".join(sentence.tokens))
                if len(text) < LEAST:
                    continue
                if text not in self._owners:
                    self._starts.setdefault(text[:LEAST], []).append(text)
                self._owners.setdefault(text, []).append((name, number))

    def look(self, line: str) -> None:
        """Take down every sentence that stands in a line."""
        text, starts = letters(line), self._starts
        for i in range(len(text) - LEAST + 1):
            for whole in starts.get(text[i : i + LEAST], ()):
                if text.startswith(whole, i):
                    self._found.add(whole)

    def seen(self, source: str) -> list[Overlap]:
        """Return for each set the sentences that were found so far; `source` is the name of what was read."""
        return [self._overlap(name, source, self._found) for name in self.sets]

    def between(self) -> list[Overlap]:
        """Return for each set and each set before it the sentences that are in both."""
        names = list(self.sets)
        having = {name: {text for text, owners in self._owners.items() if name in dict(owners)} for name in names}
        return [self._overlap(name, other, having[other]) for i, name in enumerate(names) for other in names[:i]]

    def _overlap(self, name: str, source: str, texts: Iterable[str]) -> Overlap:
        numbers = sorted(n for text in texts for owner, n in self._owners[text] if owner == name)
        of = sum(owner == name for owners in self._owners.values() for owner, _ in owners)
        sentences = self.sets[name]
        example = " ".join(sentences[numbers[0]].tokens) if numbers else ""
        return Overlap(name, source, len(numbers), of, [sentences[n].line for n in numbers], example)
