"""Frames + one language file -> sentences with IOB2 tags: parsing, word forms with endings, agreement, names.

A frame is a meaning with slots (`works_for: PER ORG`); a language file realises it ("{PER} works for {ORG}.").
`{slot|tags}` is filled with the form of the slot's word that carries the tags; `{word@slot|tags}` agrees with the
slot's class (gender, noun class); `[...]` is left out half of the time. Forms: words.py; inventory: frames.yaml.
"""

import random
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import yaml

from madx.data.world.words import Inflection, Word
from madx.errors import DataError, did_you_mean

HERE = Path(__file__).parent
SPLITS = ("train", "dev", "test")  # of labelled sentences: no name and no frame in two of them
TEXT = "text"  # raw text: every frame, as a language has them all, but names of the training split only
ENTITIES = ("PER", "ORG", "LOC")
INTERNATIONAL = 0.25  # share of names that come from the list common to all languages
CROSSING = 0.2  # share of names taken from the list of another type ("Lincoln" as a person, a place, a firm)
COINED = 0.85  # share coined from two halves of international names ("Bris" + "ford"): names are an open class
JOINED = 0.15  # share of plain sentences that are joined with a second one
NAME_LISTS = ("male", "female", "surnames", "places", "org_stems")
TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
REFERENCE = re.compile(r"\{(\w+)(?:@(\w+))?(?:\|([\w.]+))?\}")


@dataclass(frozen=True)
class Sentence:
    """One sentence: its natural text, its tokens (punctuation apart) and their IOB2 tags; frame: its meaning's id."""

    text: str
    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    frame: str


def _halves(name: str) -> tuple[str, str]:
    """A name cut before the consonant that opens its second half: Bristol -> Bris, tol."""
    vowels = "aeiouyäöüıåáéíóúâêôõàè"
    middle = len(name) // 2
    cuts = [i for i in range(2, len(name) - 1) if name[i].lower() not in vowels and name[i + 1].lower() in vowels]
    cut = min(cuts, key=lambda i: abs(i - middle), default=middle)
    return name[:cut], name[cut:].lower()


@cache
def stock(key: str) -> list[tuple[str, str]]:
    """The halves of a list of international names, from which names are coined in every language."""
    return [_halves(name) for name in shared()["international"][key].split() if len(name) > 3]


def split_of_name(name: str) -> str:
    """The split that owns a name, by a checksum of its letters: the same one in every language and every list."""
    share = zlib.crc32(name.lower().encode()) % 20
    return "train" if share < 10 else "dev" if share < 13 else "test"


@cache
def shared() -> dict:
    """What all languages have in common: classes of concepts, frames by split, international names."""
    return _read(HERE / "frames.yaml")


@cache
def frames(split: str | None = None) -> dict[str, list[str]]:
    """Frame id -> its slots, of one split or of all."""
    wanted = [split] if split in SPLITS else SPLITS
    return {name: slots.split() for part in wanted for name, slots in shared()["frames"][part].items()}


def concepts() -> dict[str, list[str]]:
    """Class of concepts -> concept ids."""
    return {name: ids.split() for name, ids in shared()["classes"].items()}


def languages() -> list[str]:
    """ISO 639-3 codes of the languages of the world, sorted."""
    return sorted(path.stem for path in (HERE / "languages").glob("*.yaml"))


def _read(path: Path) -> dict:
    # every scalar stays a string: "no", "on" and "5" are words here
    return yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))


class Language:
    """A language file, parsed once: words, endings, names by split, realisations of the frames."""

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

    def _pools(self, names: dict, split: str) -> dict[str, list[str]]:
        pools = {}
        for key in NAME_LISTS:
            for prefix, source in (("", names), ("world_", shared()["international"])):
                pools[prefix + key] = [name for name in source[key].split() if split_of_name(name) == split]
        return pools

    # ---- names -------------------------------------------------------------------------------------------------

    def entity(self, kind: str, split: str, rng: random.Random) -> Word:
        """A name of type PER, ORG or LOC from the names of a split, as a word that takes endings."""
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
        while True:  # a coined name, too, belongs to the split that its checksum says
            name = rng.choice(halves)[0] + rng.choice(halves)[1]
            if split_of_name(name) == split and 4 <= len(name) <= 11:
                return name

    # ---- sentences ---------------------------------------------------------------------------------------------

    def bind(self, frame: str, split: str, rng: random.Random) -> dict[str, "Word | str"]:
        """What fills the slots of a frame: names and numbers as words, concepts by id, all different."""
        bound: dict[str, Word | str] = {}
        for slot in frames()[frame]:
            filler = self._fill(slot.rstrip("23"), split, rng)
            while filler in bound.values():
                filler = self._fill(slot.rstrip("23"), split, rng)
            bound[slot] = filler
        return bound

    def realise(self, frame: str, rng: random.Random, *, bound: dict[str, "Word | str"]) -> list[tuple[str, str]]:
        """One realisation of a frame as (text, entity type or "") pieces, not yet capitalised."""
        bound = {slot: self.lexicon[filler] if isinstance(filler, str) else filler for slot, filler in bound.items()}
        pieces = []
        for part in rng.choice(self.realisations[frame]):
            if isinstance(part, str):
                pieces.append((part, ""))
                continue
            name, controller, tags = part
            word = bound.get(name) or self.grammar.get(name) or self.lexicon.get(name)
            if word is None or (controller and controller not in bound and controller not in self.lexicon):
                self.faults.add(f"frame {frame}: unknown slot or word in {{{name}@{controller}}}")
                continue
            other = bound.get(controller) or self.lexicon.get(controller)
            kind = name.rstrip("23")
            pieces.append(
                (self.inflection.form(word, tags, other.classes if other else ()), kind if kind in ENTITIES else "")
            )
        return pieces

    def _fill(self, kind: str, split: str, rng: random.Random) -> "Word | str":
        if kind in ENTITIES:
            return self.entity(kind, split, rng)
        if kind == "year":
            return Word(str(rng.randint(1950, 2029)), is_name=True)
        if kind == "count":
            return Word(str(rng.randint(2, 99)), is_name=True)
        return rng.choice(self.classes[kind])

    def sentence(self, split: str, rng: random.Random) -> Sentence:
        """A random sentence of a split: one frame, or two joined by a connective."""
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
        """(text, entity type or "") pieces -> a sentence with its first letter raised, its tokens and IOB2 tags."""
        spans, text = [], ""
        for piece, kind in pieces:
            spans += [(len(text), len(text) + len(piece), kind)] if kind else []
            text += piece
        start = next((i for i, char in enumerate(text) if char.isalnum()), 0)
        text = text[:start] + self.capitals.get(text[start], text[start].upper()) + text[start + 1 :]
        tokens, tags, opened = [], [], None
        for match in TOKEN.finditer(text):
            span = next((s for s in spans if match.start() < s[1] and s[0] < match.end()), None)
            tokens.append(match.group())
            tags.append("O" if span is None else ("I-" if span is opened else "B-") + span[2])
            opened = span
        return Sentence(text, tuple(tokens), tuple(tags), frame)


def _variants(texts: str | list[str]) -> list[list]:
    """Templates -> lists of literal strings and (word, controller, tags); every [optional part] with and without."""
    variants = []
    for text in [texts] if isinstance(texts, str) else texts:
        parts = re.split(r"\[([^\]]*)\]", text)
        for present in product((True, False), repeat=len(parts) // 2):
            kept = "".join(p for i, p in enumerate(parts) if i % 2 == 0 or present[i // 2])
            variants.append(_parts(kept))
    return variants


def _parts(text: str) -> list:
    end = text[-1] == "."  # the full stop stands alone, so that sentences can be joined
    parts, place = [], 0
    for match in REFERENCE.finditer(text):
        parts += [text[place : match.start()]] if match.start() > place else []
        tags = tuple((match.group(3) or "").split(".")) if match.group(3) else ()
        parts.append((match.group(1), match.group(2), tags))
        place = match.end()
    rest = text[place:-1] if end else text[place:]
    return parts + ([rest] if rest else []) + (["."] if end else [])


@cache
def language(code: str) -> Language:
    """The parsed language, kept for the life of the process."""
    return Language(code)


def sentences(code: str, *, split: str, count: int, seed: int) -> Iterator[Sentence]:
    """`count` sentences of a language, the same ones for the same arguments; split: train, dev or test."""
    if split not in (*SPLITS, TEXT):
        raise DataError(f"The miniature world has no split {split!r}; {did_you_mean(split, (*SPLITS, TEXT))}")
    rng, spoken = random.Random(f"{code}/{split}/{seed}"), language(code)
    for _ in range(count):
        yield spoken.sentence(split, rng)


def parallel(codes: list[str], *, split: str, count: int, seed: int) -> Iterator[tuple[Sentence, ...]]:
    """`count` meanings, each said in all of `codes`, with the same names: translations of each other."""
    rng, spoken = random.Random(f"{'+'.join(codes)}/{split}/{seed}"), [language(code) for code in codes]
    for _ in range(count):
        frame = rng.choice(list(frames(split)))
        bound = rng.choice(spoken).bind(frame, split, rng)
        yield tuple(one.tagged(one.realise(frame, rng, bound=bound), frame) for one in spoken)


_made = sentences  # `sentences` is a number below


def write_corpus(code: str, path, *, sentences: int, seed: int) -> Path:
    """Raw text for a language module: one sentence a line, of all frames, with names of the training split only."""
    lines = [sentence.text for sentence in _made(code, split=TEXT, count=sentences, seed=seed)]
    return _write(path, "\n".join(lines) + "\n")


def write_ner(code: str, path, *, split: str, sentences: int, seed: int) -> Path:
    """CoNLL for a task: token TAB tag, an empty line after each sentence."""
    made = _made(code, split=split, count=sentences, seed=seed)
    return _write(path, "".join("".join(f"{t}\t{g}\n" for t, g in zip(s.tokens, s.tags)) + "\n" for s in made))


def _write(path, text: str) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
