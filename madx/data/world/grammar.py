"""Sentences with IOB2 tags, generated from frames and the file of a language.

A frame is a meaning with slots (`works_for: PER ORG`), and a language file realises it ("{PER} works for {ORG}.").
`{slot|tags}` is replaced by the form of the slot's word with these tags; `{word@slot|tags}` agrees with the class of
the slot (gender, noun class); `[...]` is left out half of the time. See words.py for forms and frames.yaml for frames.
"""

import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

import yaml

from madx.data.words import word_spans
from madx.data.world.words import Inflection, Word
from madx.errors import DataError, did_you_mean
from madx.files.reasons import explained
from madx.files.writing import write_whole

HERE = Path(__file__).parent
SPLITS = ("train", "dev", "test")  # of labelled sentences: no name and no frame is in two of them
TEXT = "text"  # raw text: it has every frame, as a language does, but names of the training split only
ENTITIES = ("PER", "ORG", "LOC")
INTERNATIONAL = 0.25  # share of names from the list that all languages have in common
CROSSING = 0.2  # share of names from the list of another type ("Lincoln" as a person, a place, a firm)
COINED = 0.85  # share of names made of two halves of international ones ("Bris" + "ford"): names are an open class
JOINED = 0.15  # share of plain sentences that a second one is joined to
NAME_LISTS = ("male", "female", "surnames", "places", "org_stems")
REFERENCE = re.compile(r"\{(\w+)(?:@(\w+))?(?:\|([\w.]+))?\}")
Reference = tuple[str, str | None, tuple[str, ...]]  # the slot or word, the slot that it agrees with, its tags
Parts = list[str | Reference]  # a realisation of a frame: literal text and references


@dataclass(frozen=True)
class Sentence:
    """A sentence: its text, its tokens (punctuation by itself) with their IOB2 tags, and the id of its frame."""

    text: str
    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    frame: str


def _halves(name: str) -> tuple[str, str]:
    """Cut a name before the consonant that begins its second half.

    >>> _halves("Bristol")
    ('Bris', 'tol')
    """
    vowels = "aeiouyäöüıåáéíóúâêôõàè"
    middle = len(name) // 2
    cuts = [i for i in range(2, len(name) - 1) if name[i].lower() not in vowels and name[i + 1].lower() in vowels]
    cut = min(cuts, key=lambda i: abs(i - middle), default=middle)
    return name[:cut], name[cut:].lower()


@cache
def stock(key: str) -> list[tuple[str, str]]:
    """Return the halves of a list of international names, of which new names are made in every language."""
    return [_halves(name) for name in shared()["international"][key].split() if len(name) > 3]


def split_of_name(name: str) -> str:
    """Return the split of a name, by a checksum of its letters: it is the same in every language and every list."""
    share = zlib.crc32(name.lower().encode()) % 20
    return "train" if share < 10 else "dev" if share < 13 else "test"


@cache
def shared() -> dict[str, Any]:
    """Return the data of all languages: classes of concepts, frames by split, international names."""
    return _read(HERE / "frames.yaml")


@cache
def frames(split: str | None = None) -> dict[str, list[str]]:
    """Return the slots of each frame, of one split or of all."""
    wanted = [split] if split in SPLITS else SPLITS
    return {name: slots.split() for part in wanted for name, slots in shared()["frames"][part].items()}


def concepts() -> dict[str, list[str]]:
    """Return the concepts of each class."""
    return {name: ids.split() for name, ids in shared()["classes"].items()}


def languages() -> list[str]:
    """Return the ISO 639-3 codes of the languages of the miniature world, sorted."""
    return sorted(path.stem for path in (HERE / "languages").glob("*.yaml"))


def _read(path: Path) -> dict[str, Any]:
    # with this loader every scalar stays a string: "no", "on" and "5" are words here
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))


class Language:
    """A parsed language file: words, endings, names by split, realisations of the frames."""

    def __init__(self, code: str):
        if code not in languages():
            raise DataError(f"The miniature world has no language {code!r}; {did_you_mean(code, languages())}")
        data = _read(HERE / "languages" / f"{code}.yaml")
        self.code, self.name = code, data["name"]
        self.inflection = Inflection(data)
        self.faults = self.inflection.faults
        self.capitals = data.get("capitals", {})
        self.lexicon = {key: Word.parse(line) for part in data["lexicon"].values() for key, line in part.items()}
        self.grammar = {key: Word.parse(line) for key, line in data.get("grammar", {}).items()}
        self.classes = {name: [c for c in ids if c in self.lexicon] for name, ids in concepts().items()}
        self.realisations = {name: _variants(texts) for name, texts in data["frames"].items()}
        self.patterns = {key: data["names"][f"{key}_patterns"] for key in ("person", "place", "org")}
        self.pools = {split: self._pools(data["names"], split) for split in SPLITS}

    def _pools(self, names: dict[str, str], split: str) -> dict[str, list[str]]:
        pools = {}
        for key in NAME_LISTS:
            for prefix, source in (("", names), ("world_", shared()["international"])):
                pools[prefix + key] = [name for name in source[key].split() if split_of_name(name) == split]
        return pools

    # ---- names -------------------------------------------------------------------------------------------------

    def entity(self, kind: str, split: str, rng: random.Random) -> Word:
        """Make a name of type PER, ORG or LOC from the names of a split, as a word that takes endings."""
        pattern = rng.choice(self.patterns[{"PER": "person", "ORG": "org", "LOC": "place"}[kind]])
        text, _, classes = pattern.partition("<")
        first = rng.choice(("male", "female"))
        lists = {"{first}": first, "{surname}": "surnames", "{place}": "places", "{stem}": "org_stems"}
        for slot, key in lists.items():
            if slot in text:
                text = text.replace(slot, self._pick(key, split, rng))
        classes = classes.strip("> ").split() or ["m" if first == "male" else "f"] * (kind == "PER")
        return Word(text.strip(), tuple(classes), is_name=True)

    def _pick(self, key: str, split: str, rng: random.Random) -> str:
        split = "train" if split == TEXT else split
        crossings = {"surnames": ["places"], "places": ["surnames"], "org_stems": ["surnames", "places"]}
        if key in crossings and rng.random() < CROSSING:
            key = rng.choice(crossings[key])
        if rng.random() < COINED:
            return self._coin(key, split, rng)
        pools = self.pools[split]
        return rng.choice(pools["world_" + key if rng.random() < INTERNATIONAL else key])

    def _coin(self, key: str, split: str, rng: random.Random) -> str:
        halves = stock(key)
        while True:  # the checksum decides the split of a coined name, too
            name = rng.choice(halves)[0] + rng.choice(halves)[1]
            if split_of_name(name) == split and 4 <= len(name) <= 11:
                return name

    # ---- sentences ---------------------------------------------------------------------------------------------

    def bind(self, frame: str, split: str, rng: random.Random) -> dict[str, Word | str]:
        """Choose the fillers of the slots of a frame, all different: names and numbers as words, concepts by id."""
        bound: dict[str, Word | str] = {}
        for slot in frames()[frame]:
            filler = self._fill(slot.rstrip("23"), split, rng)
            while filler in bound.values():
                filler = self._fill(slot.rstrip("23"), split, rng)
            bound[slot] = filler
        return bound

    def realise(self, frame: str, rng: random.Random, *, bound: dict[str, Word | str]) -> list[tuple[str, str]]:
        """Return one realisation of a frame as pieces (text, entity type or ""), not yet capitalised."""
        words = {slot: self.lexicon[filler] if isinstance(filler, str) else filler for slot, filler in bound.items()}
        pieces = []
        for part in rng.choice(self.realisations[frame]):
            if isinstance(part, str):
                pieces.append((part, ""))
                continue
            name, controller, tags = part
            word = words.get(name) or self.grammar.get(name) or self.lexicon.get(name)
            if word is None or (controller and controller not in words and controller not in self.lexicon):
                self.faults.add(f"frame {frame}: unknown slot or word in {{{name}@{controller}}}")
                continue
            other = (words.get(controller) or self.lexicon.get(controller)) if controller else None
            kind, form = name.rstrip("23"), self.inflection.form(word, tags, other.classes if other else ())
            pieces.append((form, kind if kind in ENTITIES else ""))
        return pieces

    def _fill(self, kind: str, split: str, rng: random.Random) -> Word | str:
        if kind in ENTITIES:
            return self.entity(kind, split, rng)
        if kind == "year":
            return Word(str(rng.randint(1950, 2029)), is_name=True)
        if kind == "count":
            return Word(str(rng.randint(2, 99)), is_name=True)
        return rng.choice(self.classes[kind])

    def sentence(self, split: str, rng: random.Random) -> Sentence:
        """Make a random sentence of a split, of one frame or of two that a connective joins."""
        frame = rng.choice(list(frames(split)))
        pieces = self.realise(frame, rng, bound=self.bind(frame, split, rng))
        if pieces[-1][0] == "." and rng.random() < JOINED:
            second = rng.choice(list(frames(split)))
            more = self.realise(second, rng, bound=self.bind(second, split, rng))
            if more[-1][0] == ".":
                connective = self.lexicon[rng.choice(self.classes["connective"])].plain
                space = " " if connective[0].isalnum() else ""
                pieces, frame = [*pieces[:-1], (f"{space}{connective} ", ""), *more], f"{frame}+{second}"
        return self.tagged(pieces, frame)

    def tagged(self, pieces: list[tuple[str, str]], frame: str) -> Sentence:
        """Return the sentence of pieces (text, entity type or ""), with a capital, its tokens and their IOB2 tags."""
        spans, text = [], ""
        for piece, kind in pieces:
            spans += [(len(text), len(text) + len(piece), kind)] if kind else []
            text += piece
        start = next((i for i, char in enumerate(text) if char.isalnum()), 0)
        text = text[:start] + self.capitals.get(text[start], text[start].upper()) + text[start + 1 :]
        tokens, tags, opened = [], [], None
        for first, last in word_spans(text):
            span = next((s for s in spans if first < s[1] and s[0] < last), None)
            tokens.append(text[first:last])
            tags.append("O" if span is None else ("I-" if span is opened else "B-") + span[2])
            opened = span
        return Sentence(text, tuple(tokens), tuple(tags), frame)


def _variants(texts: str | list[str]) -> list[Parts]:
    """Return all realisations of templates: each [optional part] is once in them and once not."""
    variants = []
    for text in [texts] if isinstance(texts, str) else texts:
        parts = re.split(r"\[([^\]]*)\]", text)
        for present in product((True, False), repeat=len(parts) // 2):
            kept = "".join(p for i, p in enumerate(parts) if i % 2 == 0 or present[i // 2])
            variants.append(_parts(kept))
    return variants


def _parts(text: str) -> Parts:
    end = text[-1] == "."  # the full stop is a part of its own, so that sentences can be joined
    parts: Parts = []
    place = 0
    for match in REFERENCE.finditer(text):
        parts += [text[place : match.start()]] if match.start() > place else []
        tags = tuple((match.group(3) or "").split(".")) if match.group(3) else ()
        parts.append((match.group(1), match.group(2), tags))
        place = match.end()
    rest = text[place:-1] if end else text[place:]
    return parts + ([rest] if rest else []) + (["."] if end else [])


@cache
def language(code: str) -> Language:
    """Return a language, which is parsed once in a process."""
    return Language(code)


def sentences(code: str, *, split: str, count: int, seed: int) -> Iterator[Sentence]:
    """Yield `count` sentences of a language, the same ones for the same arguments.

    split: train, dev, test, or text for raw text. Raises DataError for a language or a split that does not exist.
    """
    if split not in (*SPLITS, TEXT):
        raise DataError(f"The miniature world has no split {split!r}; {did_you_mean(split, (*SPLITS, TEXT))}")
    rng, spoken = random.Random(f"{code}/{split}/{seed}"), language(code)
    for _ in range(count):
        yield spoken.sentence(split, rng)


def parallel(codes: list[str], *, split: str, count: int, seed: int) -> Iterator[tuple[Sentence, ...]]:
    """Yield `count` groups of sentences that are translations of each other, one in each language of `codes`."""
    rng, spoken = random.Random(f"{'+'.join(codes)}/{split}/{seed}"), [language(code) for code in codes]
    for _ in range(count):
        frame = rng.choice(list(frames(split)))
        bound = rng.choice(spoken).bind(frame, split, rng)
        yield tuple(one.tagged(one.realise(frame, rng, bound=bound), frame) for one in spoken)


_made = sentences  # because `sentences` is a number below


def write_corpus(code: str, path: str | PathLike[str], *, sentences: int, seed: int) -> Path:
    """Write raw text for a language module, one sentence a line, and return the path."""
    lines = [sentence.text for sentence in _made(code, split=TEXT, count=sentences, seed=seed)]
    return _write(path, "\n".join(lines) + "\n")


def write_ner(code: str, path: str | PathLike[str], *, split: str, sentences: int, seed: int) -> Path:
    """Write labelled sentences, `token TAB tag` with a blank line after each sentence, and return the path."""
    made = _made(code, split=split, count=sentences, seed=seed)
    return _write(path, "".join("".join(f"{t}\t{g}\n" for t, g in zip(s.tokens, s.tags)) + "\n" for s in made))


def _write(path: str | PathLike[str], text: str) -> Path:
    path = Path(path)
    with explained(f"write {path}", DataError):
        write_whole(path, text.encode())
    return path
