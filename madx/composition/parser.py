"""Parses the text form of compositions by recursive descent; errors name the character where parsing stopped."""

import re
from collections.abc import Callable
from typing import TypeVar

from madx.composition.algebra import Average, Composition, Fuse, Item, Route, Scaled, Stack, Ties
from madx.composition.names import MAX_NAME, hub_advice
from madx.errors import CompositionError

T = TypeVar("T")

MAX_DEPTH = 50  # brackets inside brackets


def parse(text: str) -> Composition:
    """Parse the text form of a composition; raises CompositionError with the place where parsing stopped.

    >>> parse("average(swa, hau) + ner").names()
    ('swa', 'hau', 'ner')
    """
    return _Parser(text).whole()


def as_composition(value: Item | Composition | None) -> Composition:
    """Make a composition from a text, an item of a stack, a Stack, a Route, or from None (the bare base)."""
    if value is None:
        return Stack()
    if isinstance(value, (Stack, Route)):
        return value
    return parse(value) if isinstance(value, str) else Stack(value)


class _Parser:
    """A recursive-descent parser with one method for each rule of the grammar.

    whole   = 'route(' stack {',' stack} ')' | stack
    stack   = item {'+' item}
    item    = {number '*'} (name | average | ties | fuse | '(' stack ')')
    average = 'average(' term {',' term} ')'
    term    = number '*' item | stack
    ties    = 'ties(' stack {',' stack} ')'
    fuse    = 'fuse(' stack {',' stack} ';' name ')'
    """

    token = re.compile(
        r"\s*(?:([0-9.]+(?:e[+-]?[0-9]+)?|-[0-9.]+(?:e[+-]?[0-9]+)?)\s*\*|([A-Za-z0-9][A-Za-z0-9._@-]*)|(.))"
    )

    def __init__(self, text: str):
        self.text, self.at, self.depth = text, 0, 0

    def start(self) -> int:
        """Return the place of the next token, counted from 0."""
        return len(self.text) - len(self.text[self.at :].lstrip())

    def fail(self, expected: str, at: int | None = None) -> CompositionError:
        at = self.start() if at is None else at
        came = repr(self.text[at : at + 20]) if at < len(self.text) else "the end"
        return CompositionError(
            f"Cannot read the composition {_shortened(self.text)}: expected {expected} at character {at + 1}, "
            f"found {came}. Examples: 'swa + ner', 'average(swa, hau) + ner', 'base'.{hub_advice(self.text)}"
        )

    def peek(self) -> tuple[str | None, str | None, str | None]:
        match = self.token.match(self.text, self.at)
        if match is None or not self.text[self.at :].strip():
            return None, None, None
        return match[1], match[2], match[3]

    def take(self) -> None:
        if match := self.token.match(self.text, self.at):
            self.at = match.end()

    def symbol(self, wanted: str) -> bool:
        if self.peek()[2] == wanted:
            self.take()
            return True
        return False

    def whole(self) -> Composition:
        if not self.text.strip():
            raise CompositionError(
                "The composition is empty at character 1. Name a module, e.g. 'swa + ner', or write 'base'."
            )
        routed = self.peek()[1] == "route"
        if routed:
            self.take()
            if not self.symbol("("):
                raise self.fail("'(' after route")
        found = Route(*self.listed(self.stack)) if routed else self.stack()
        if self.text[self.at :].strip():
            advice = " (a route is outermost: write each branch in full, as in 'route(swa + ner, yor + ner)')"
            raise self.fail("the end" + advice if routed else "'+' or the end")
        return found

    def stack(self) -> Stack:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"at most {MAX_DEPTH} brackets inside one another")
        items = [self.item()]
        while self.symbol("+"):
            items.append(self.item())
        self.depth -= 1
        return Stack(*items)

    def number(self) -> float | None:
        """Take a number and its '*', if they come next."""
        number, at = self.peek()[0], self.start()
        if number is None:
            return None
        self.take()
        try:
            return float(number)
        except ValueError:
            raise self.fail("a number", at) from None

    def item(self) -> Item | Stack:
        factor = None
        while (number := self.number()) is not None:
            factor = number if factor is None else factor * number
        thing = self.thing()
        return thing if factor is None else Scaled(thing, factor)

    def thing(self) -> Item | Stack:
        if self.symbol("("):
            inner = self.stack()
            if not self.symbol(")"):
                raise self.fail("')'")
            return inner
        _, name, _ = self.peek()
        if name is None:
            raise self.fail("a module name")
        at = self.start()
        self.take()
        if name == "base":
            return Stack()
        if name == "route":
            raise self.fail("a module name, not a route: a route is outermost, with each branch in full", at)
        if name in ("average", "ties", "fuse"):
            if not self.symbol("("):
                raise self.fail(f"'(' after {name}")
            if name == "fuse":
                return self.fuse()
            return self.average() if name == "average" else Ties(*self.listed(self.stack))
        if len(name) > MAX_NAME:
            raise self.fail(f"a name of at most {MAX_NAME} characters", at)
        return name

    def average(self) -> Average:
        terms = self.listed(self.term)
        return Average(*(child for _, child in terms), weights=tuple(weight for weight, _ in terms))

    def fuse(self) -> Fuse:
        children = self.listed(self.stack, end=";")
        _, fusion, _ = self.peek()
        if fusion is None:
            raise self.fail("the name of a fusion module after ';'")
        self.take()
        if not self.symbol(")"):
            raise self.fail("')'")
        return Fuse(*children, fusion=fusion)

    def term(self) -> tuple[float, Item | Stack]:
        weight = self.number()
        if weight is None:
            return 1.0, self.stack()
        child = self.item()
        if self.peek()[2] == "+":
            raise self.fail("',' or ')' (0.5*(a + b) weighs the stack, (0.5*a + b) scales a)")
        return weight, child

    def listed(self, one: Callable[[], T], end: str = ")") -> list[T]:
        """Parse the list inside average(), ties(), fuse() or route(), up to the closing mark. one: parses an entry."""
        found = [one()]
        while not self.symbol(end):
            if not self.symbol(","):
                hint = " (the modules, then ';' and the fusion module, as in 'fuse(a, b; f)')" if end == ";" else ""
                raise self.fail(f"',' or '{end}'{hint}")
            found.append(one())
        return found


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 200 else text[:200] + "...")
