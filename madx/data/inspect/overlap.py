"""Leakage: sentences of labelled data found again in a corpus or in another set.

Two texts are the same when their letters and digits are, case aside. A sentence counts as found where all of it stands
inside a line, so documents are searched as well as sentences. The index holds the labelled sentences, never the corpus.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from unicodedata import normalize

from madx.data.labelled.conll import Sentence

#: letters and digits below which a sentence ("Thank you.") says nothing when it is met again
LEAST = 20
_NO_LETTERS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Overlap:
    """Sentences of the set `data` that were found in `source` (the corpus or another set).

    of: sentences long enough to tell; lines: where the found ones stand in the file of `data`; example: one of them.
    """

    data: str
    source: str
    found: int
    of: int
    lines: list[int]
    example: str

    @property
    def share(self) -> float:
        return self.found / self.of if self.of else 0.0


def letters(text: str) -> str:
    """Letters and digits alone, case folded.

    >>> letters("Don't stop, Ann!")
    'dontstopann'
    """
    return _NO_LETTERS.sub("", normalize("NFC", text).casefold())


class SentenceIndex:
    """Labelled sentences, to be looked for in lines of text. `names` are those of the sets."""

    def __init__(self, sets: dict[str, Sequence[Sentence]]):
        self.sets = sets
        self._starts: dict[str, list[str]] = {}  # first letters -> whole sentences
        self._owners: dict[str, list[tuple[str, int]]] = {}  # whole sentence -> (set, number)
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
        """Note every sentence that stands in the line."""
        text, starts = letters(line), self._starts
        for i in range(len(text) - LEAST + 1):
            for whole in starts.get(text[i : i + LEAST], ()):
                if text.startswith(whole, i):
                    self._found.add(whole)

    def seen(self, source: str) -> list[Overlap]:
        """For each set the sentences noted so far."""
        return [self._overlap(name, source, self._found) for name in self.sets]

    def between(self) -> list[Overlap]:
        """For each set the sentences that an earlier set holds too."""
        names = list(self.sets)
        having = {name: {text for text, owners in self._owners.items() if name in dict(owners)} for name in names}
        return [self._overlap(name, other, having[other]) for i, name in enumerate(names) for other in names[:i]]

    def _overlap(self, name: str, source: str, texts: Iterable[str]) -> Overlap:
        numbers = sorted(n for text in texts for owner, n in self._owners[text] if owner == name)
        of = sum(owner == name for owners in self._owners.values() for owner, _ in owners)
        sentences = self.sets[name]
        example = " ".join(sentences[numbers[0]].tokens) if numbers else ""
        return Overlap(name, source, len(numbers), of, [sentences[n].line for n in numbers], example)
