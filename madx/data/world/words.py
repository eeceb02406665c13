"""Word forms of a language file: listed forms first, then regular endings with buffers and vowel harmony.

`Hund <m> | pl=Hunde` gives the plain form, the classes that other words agree with, and listed forms by their tags. An
ending is a suffix or `pattern > replacement`. In a suffix, a capital of `letters` stands for the letter that fits what
is before it (Turkish `lAr`: lar, ler), and `(y)` is a buffer: a consonant that appears only after a vowel, or a vowel
that appears only after a consonant.
"""

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Word:
    """A lexical item: its plain form, the classes that other words agree with, and its listed forms by their tags."""

    plain: str
    classes: tuple[str, ...] = ()
    forms: tuple[tuple[frozenset[str], str], ...] = ()
    is_name: bool = False

    @classmethod
    def parse(cls, line: str) -> "Word":
        """Read a line of a lexicon.

        >>> Word.parse("Hund <m> | pl=Hunde").classes
        ('m',)
        """
        head, *forms = [part.strip() for part in line.split("|")]
        plain, _, classes = head.partition("<")
        listed = [form.partition("=") for form in forms]
        table = tuple((frozenset(tags.strip().split(".")), text.strip()) for tags, _, text in listed)
        return cls(plain.strip(), tuple(classes.strip("> ").split()), table)


class Inflection:
    """The rules by which a language builds forms. `faults` collects the tags for which there is no form or ending."""

    def __init__(self, data: dict[str, Any]):
        self.vowels = data.get("vowels", "aeiou")
        self.letters = {key: _letter(rule) for key, rule in data.get("letters", {}).items()}
        self.endings = _endings(data.get("endings", {}))
        self.name_endings = _endings(data.get("name_endings", {}))
        self.name_join = data.get("name_join", "")
        self.faults: set[str] = set()
        self._forms: dict[tuple[Word, tuple[str, ...], tuple[str, ...]], str] = {}

    def form(self, word: Word, tags: tuple[str, ...], classes: tuple[str, ...] = ()) -> str:
        """Return the form of a word with some tags that agrees with classes: the best listed form, then endings."""
        key = (word, tags, classes)
        if key not in self._forms:
            self._forms[key] = self._build(word, set(tags), set(classes))
        return self._forms[key]

    def _build(self, word: Word, tags: set[str], classes: set[str]) -> str:
        left = tags | classes
        listed = [(keys, text) for keys, text in word.forms if keys <= left]
        text = word.plain
        if listed:
            keys, text = max(listed, key=lambda item: len(item[0]))
            left -= keys
        elif left & {tag for keys, _ in self.endings for tag in keys}:
            text = dict(word.forms).get(frozenset(["stem"]), text)
        endings, joined = self.endings, False
        if word.is_name:
            endings = self.name_endings + [pair for pair in self.endings if pair[0] not in dict(self.name_endings)]
        while True:
            fitting = [(keys, rules) for keys, rules in endings if keys <= left]
            if not fitting:
                break
            keys, rules = max(fitting, key=lambda item: len(item[0]))  # among equally large ones the first
            text = self._add(text, rules, join=self.name_join if word.is_name and not joined else "")
            joined, left = True, left - keys
        self.faults |= {f"no form or ending for tag {tag!r} of {word.plain!r}" for tag in left & tags}
        return text

    def _add(self, text: str, rules: list[str], *, join: str) -> str:
        """Apply the first rule that fits: `pattern > replacement`, or a suffix with capitals and (buffers)."""
        for rule in rules:
            pattern, arrow, replacement = rule.partition(" > ")
            if not arrow:
                return self._suffix(text, rule, join)
            match = re.search(pattern, text)
            if match:
                return self._suffix(text[: match.start()], match.expand(replacement), join)
        return text

    def _suffix(self, stem: str, suffix: str, join: str) -> str:
        out = stem
        for buffer, letter in re.findall(r"\((\w)\)|(.)", suffix):
            last = next((c for c in reversed(out.lower()) if c.isalnum()), "")
            if buffer:
                is_vowel = buffer.lower() in self.vowels or buffer in self.letters
                if is_vowel == (last in self.vowels):
                    continue
            out += self._resolve(buffer or letter, out.lower())
        return stem + join + out[len(stem) :] if join and out != stem else out

    def _resolve(self, letter: str, before: str) -> str:
        """Return the letter that vowel harmony requires for a capital of `letters`; other letters stay."""
        if letter not in self.letters:
            return letter
        final_only, groups = self.letters[letter]
        for char in before[-1:] if final_only else reversed(before):
            for group, result in groups:
                if char in group or group == "*":
                    return result
        return groups[-1][1]


def _letter(rule: str) -> tuple[bool, list[tuple[str, str]]]:
    """Read a rule of harmony such as `aıou>a eiöü>e`: (whether only the last letter counts, groups and their letters).

    The first listed letter decides, searched from the end of the word; with a leading `$` only the last letter is read.
    """
    parts = rule.split()
    groups = [part.partition(">") for part in parts if part != "$"]
    return parts[0] == "$", [(group, letter) for group, _, letter in groups]


def _endings(table: dict[str, Any]) -> list[tuple[frozenset[str], list[str]]]:
    pairs = [(tags, [rules] if isinstance(rules, str) else rules) for tags, rules in table.items()]
    return [(frozenset(tags.split(".")), rules) for tags, rules in pairs]
