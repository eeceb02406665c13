"""Ways in which a file is damaged, drawn by a seed: what a bad disk, a cut transfer or a careless tool leaves."""

import random
from collections.abc import Iterator
from pathlib import Path

from madx.errors import MadxError


def flipped(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def truncated(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data))]


def appended(data: bytes, chance: random.Random) -> bytes:
    return data + chance.choice([b"\0", b"\n", b"{}", chance.randbytes(9), data])


def replaced(data: bytes, chance: random.Random) -> bytes:
    place, length = chance.randrange(len(data)), chance.randrange(1, 40)
    return data[:place] + chance.choice([chance.randbytes(length), bytes(length), b""]) + data[place + length :]


def exchanged(data: bytes, chance: random.Random) -> bytes:
    a, b = sorted(chance.randrange(len(data)) for _ in range(2))
    length = min(chance.randrange(1, 40), b - a)
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def digit(data: bytes, chance: random.Random) -> bytes:
    """Another digit or letter in the place of one: text stays text, and JSON mostly JSON."""
    places = [i for i, byte in enumerate(data) if chr(byte).isascii() and chr(byte).isalnum()]
    place = chance.choice(places or [0])
    return data[:place] + chance.choice(b"0123456789aeEnt").to_bytes(1, "little") + data[place + 1 :]


KINDS = (flipped, truncated, appended, replaced, exchanged, digit)


def damaged(data: bytes, *, count: int, seed: int = 0) -> Iterator[bytes]:
    """Versions of a file's content that differ from it."""
    chance = random.Random(seed)
    for number in range(count):
        found = KINDS[number % len(KINDS)](data, chance)
        if found != data:
            yield found


def in_turn(path: Path, *, count: int, seed: int = 0) -> Iterator[bytes]:
    """Write damaged versions of a file in its place, one after the other, and the whole one again at the end."""
    whole = path.read_bytes()
    try:
        for content in damaged(whole, count=count, seed=seed):
            path.write_bytes(content)
            yield content
    finally:
        path.write_bytes(whole)


def outcomes(versions, read, whole, same=lambda a, b: a == b):
    """How many versions were read as the whole one was, and how many were refused. Any other outcome is an error."""
    equal = refused = 0
    for version in versions:
        try:
            found = read(version)
        except MadxError as error:
            assert str(error), "an error without words"
            refused += 1
            continue
        assert same(found, whole), f"other values were read: {version[:300]!r}"
        equal += 1
    return equal, refused
