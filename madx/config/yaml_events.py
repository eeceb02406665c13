"""YAML as plain data, read event by event within bounds: nothing is constructed, nothing is expanded unseen.

A settings file needs mappings, lists, texts, numbers, true, false and null. What YAML has beyond these is refused by
line: tags (`!!python/...`, `!!binary`), merge keys (`<<`), keys that are no text, several documents. Aliases are read
as copies and counted, so that a few lines of them cannot stand for billions of values. The bounds below hold many times
what the largest settings need; a file at every bound is read or refused in less than a second.

Words without quotes are read as in YAML 1.2: `no`, `on` and `nor` are text (they are language codes), `1e-4` a number.
"""

import copy
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.reader import ReaderError

from madx.config.faults import KeyPath, dotted

#: bytes of a file, values in it (those of aliases as often as they stand there), levels inside each other
MOST_BYTES, MOST_VALUES, MOST_LEVELS = 512 << 10, 15_000, 32
#: characters of a number; 64-bit numbers have 20 digits, doubles 17
MOST_CHARACTERS = 400
LEAST, LARGEST = -(1 << 63), (1 << 64) - 1

INT = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*)?\.?[0-9]+([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*\.([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan"
)
NUMBER_LIKE = re.compile(r"[-+.0-9_eE]+")
NO_TEXT = re.compile("[\0\ud800-\udfff]")
WORDS = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
}


class YamlFault(Exception):
    """A fault of a YAML text in words, with its line, counted from 1, and its column where that is known."""

    def __init__(self, line: int, text: str, column: int | None = None):
        super().__init__(text)
        self.line, self.text, self.column = line, text, column


class YamlReader:
    """Reads one text. lines: the line of each key and value. twice: the keys that were given twice, with their lines.

    >>> reader = YamlReader()
    >>> reader.read("a: {b: no, c: [1, 1e-4]}"), reader.lines["a", "b"]
    ({'a': {'b': 'no', 'c': [1, 0.0001]}}, 1)
    """

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.twice: list[tuple[int, KeyPath]] = []
        self._anchors: dict[str, tuple[Any, int]] = {}  # name -> (value, number of values in it)
        self._count = 0
        self._events: Iterator[Any] = iter(())  # yaml's types know no anchors

    def read(self, text: str, *, at: KeyPath = ()) -> Any:
        """The value of a text, None for an empty one; at: the keys under which it will stand. Raises YamlFault."""
        self._events = self._parsed(text)
        value, documents = None, 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise YamlFault(_line(event), "a second document begins here (---); give one")
                value = self._value(next(self._events), at)
        return value

    def _parsed(self, text: str) -> Iterator[Any]:
        """The events of a text; the library's errors become YamlFaults."""
        try:
            yield from yaml.parse(text, Loader=yaml.SafeLoader)
        except ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            raise YamlFault(line, f"this is not YAML: the character {chr(error.character)!r} is not allowed") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, None)
            raise YamlFault(
                line, f"this is not YAML: {problem}. Check indentation, quotes and colons there.", column
            ) from None
        except (ValueError, OverflowError):
            near = max(self.lines.values(), default=1)
            why = "an escape such as \\U00110000, or the number of a version, is beyond bounds"
            raise YamlFault(near, f"this is not YAML: {why}. It stands there or below.") from None

    def _value(self, event: Any, at: KeyPath) -> Any:
        """The value that begins with an event; at: the keys that lead to it."""
        line = _line(event)
        self.lines.setdefault(at, line)
        self._add(1, line)
        if len(at) > MOST_LEVELS:
            raise YamlFault(line, f"more than {MOST_LEVELS} levels inside each other ({dotted(at[:4])}...)")
        if isinstance(event, yaml.AliasEvent):
            return self._copied(event)
        before = self._count
        tag = getattr(event, "tag", None)
        if tag is not None:
            shown = str(tag).replace("tag:yaml.org,2002:", "!!")
            raise YamlFault(
                line,
                f"the tag {shown:.80} at {_named(at)}: tags are not read; write the plain value, a text in quotes",
            )
        if isinstance(event, yaml.SequenceStartEvent):
            value: Any = self._list(at)
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(at)
        else:
            value = _scalar(event, at)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._count - before + 1)
        return value

    def _list(self, at: KeyPath) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            found.append(self._value(event, (*at, len(found))))
        return found

    def _mapping(self, at: KeyPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = _key(event, at)
            here, line = (*at, key), _line(event)
            if key in found:
                self.twice.append((line, here))
            self.lines[here] = line
            found[key] = self._value(next(self._events), here)
        return found

    def _copied(self, event: Any) -> Any:
        """A copy of the value that an alias stands for."""
        if event.anchor not in self._anchors:
            raise YamlFault(
                _line(event), f"the alias *{event.anchor:.40} stands for nothing that is complete before it"
            )
        value, count = self._anchors[event.anchor]
        self._add(count, _line(event))
        return copy.deepcopy(value)

    def _add(self, count: int, line: int) -> None:
        self._count += count
        if self._count > MOST_VALUES:
            raise YamlFault(line, f"more than {MOST_VALUES:,} values, those of aliases included; settings have fewer")


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _named(at: KeyPath) -> str:
    return dotted(at) or "the top"


def _key(event: Any, at: KeyPath) -> str:
    """A key of a mapping; at: the keys that lead to the mapping."""
    if not isinstance(event, yaml.ScalarEvent) or event.tag is not None:
        raise YamlFault(_line(event), f"in {_named(at)}: a key must be a plain text, as in `key: value`")
    if event.style is None and event.value == "<<":
        raise YamlFault(_line(event), f"in {_named(at)}: merge keys (<<) are not read; write the keys out")
    if event.style is None and event.value == "":
        raise YamlFault(_line(event), f"in {_named(at)}: a value without a key; write `key: value`")
    return _text(event.value, (*at, event.value), _line(event))


def _scalar(event: Any, at: KeyPath) -> Any:
    if not isinstance(event, yaml.ScalarEvent):
        raise YamlFault(_line(event), f"{_named(at)}: expected a value")
    text = _text(event.value, at, _line(event))
    if event.style:
        return text
    try:
        return plain_scalar(text)
    except ValueError as error:
        raise YamlFault(_line(event), f"{_named(at)}: {error}") from None


def _text(text: str, at: KeyPath, line: int) -> str:
    if found := NO_TEXT.search(text):
        what = "a zero byte" if found[0] == "\0" else "half of a surrogate pair"
        raise YamlFault(line, f"{dotted(at)!a}: {what} (\\u{ord(found[0]):04x}) is no character; correct the escape")
    return text


def plain_scalar(text: str) -> Any:
    """Read a word without quotes as null, bool, int, float or text. Raises ValueError for a number beyond bounds."""
    if text in WORDS:
        return WORDS[text]
    if len(text) > MOST_CHARACTERS:
        if NUMBER_LIKE.fullmatch(text):
            raise ValueError(f"a number of {len(text):,} characters ({text[:20]}...); if it is text, put it in quotes")
        return text
    if INT.fullmatch(text):
        number = int(text.replace("_", ""))
        if not LEAST <= number <= LARGEST:
            raise ValueError(
                f"{text[:40]} is beyond 64 bits; allowed: {LEAST} to {LARGEST}. If it is text, put it in quotes"
            )
        return number
    if FLOAT.fullmatch(text):
        value = float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
        if math.isinf(value) and "inf" not in text:
            raise ValueError(f"{text[:40]} is beyond the largest number, 1.8e308. If it is text, put it in quotes")
        return value
    return text
