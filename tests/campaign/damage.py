"""Damage to files: bytes turned, cut, inserted, doubled and swapped; JSON and text changed by those who know the form.

`damaged(data, draw, kind)` gives other bytes and says how. kind: "bytes", "json" (one value, or one a line),
"safetensors" (a JSON header), or "text".
"""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

Change = Callable[[bytes, random.Random], tuple[bytes, str]]

#: texts that mean something to a terminal, a markup language, a file system, a template or a spreadsheet
HOSTILE = (
    "",
    " ",
    "[/x]",
    "[bold]Q[/bold]",
    "\x1b[2J\x1b]0;Q\x07",
    "\x9b31m",
    "\u202eQ",
    "\ud800",
    "\x00",
    "\r",
    "\u2028",
    "\u00a0",
    "\ufeff",
    "../../up",
    "/etc/passwd",
    "a/b",
    "~",
    "=1+1",
    "<script>Q</script>",
    "{0}%s$HOME",
    "NaN",
    "²",
    "e\u0301" * 20,
    "x" * 70_000,
)
VALUES = (None, True, False, 0, -1, 1, 2.5, 1e308, -1e-300, 2**63, 2**64, -(10**30), [], {}, [[]], {"a": {}}, *HOSTILE)
#: what a number, a value or a word of a text may become, unquoted
TOKENS = (
    "9" * 400,
    "-1",
    "1e999",
    ".nan",
    "-.inf",
    "0x10",
    "1_0",
    "²",
    "null",
    "[" * 20_000,
    "{" * 20_000,
    '{"a":' * 5_000,
    "[[[[[[[[[[1]]]]]]]]]]",
    "&a [*a, *a]",
    "!!python/object/apply:os.system [true]",
    "!!binary aGFsbG8=",
    "1:30:00",
    "2026-01-01",
    "\ufeff",
    "\u2028",
    "\x85",
    "\t",
    "\r",
    "\x0b",
    "\x00",
    "\u200d",
    "- - - x",
)
BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)


def damaged(data: bytes, draw: random.Random, kind: str) -> tuple[bytes, str]:
    """Give other bytes than `data`, and what was done."""
    ways: tuple[Change, ...] = WAYS["bytes"]
    if kind != "bytes" and draw.random() < 0.6:
        ways = WAYS[kind]
    for _ in range(20):
        way = draw.choice(ways)
        try:
            found, how = way(data, draw)
        except (ValueError, IndexError, RecursionError):  # this way does not fit these bytes, e.g. no JSON
            continue
        if found != data:
            return found, how
    return data + b"\x00", "a zero byte at the end"


# ---- bytes -----------------------------------------------------------------------------------------------------------


def _place(data: bytes, draw: random.Random) -> int:
    """A place in the data, in half of the cases near the beginning, where headers are."""
    return draw.randrange(min(len(data), draw.choice((64, 600, len(data), len(data)))))


def _flip(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    found, places = bytearray(data), []
    for _ in range(draw.choice((1, 1, 1, 2, 8))):
        at = _place(data, draw)
        found[at] ^= 1 << draw.randrange(8)
        places.append(at)
    return bytes(found), f"bits turned at {places}"


def _set(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    at, byte = _place(data, draw), draw.choice((0, 10, 13, 34, 255, 0xE2, draw.randrange(256)))
    return data[:at] + bytes([byte]) + data[at + 1 :], f"byte {byte} at {at}"


def _cut(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    at = draw.choice((0, 1, len(data) - 1, draw.randrange(len(data))))
    return data[:at], f"cut to {at} bytes"


def _insert(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    at, more = _place(data, draw), draw.randbytes(draw.choice((1, 1, 8, 500)))
    return data[:at] + more + data[at:], f"{len(more)} random bytes inserted at {at}"


def _block(data: bytes, draw: random.Random) -> tuple[int, int]:
    """A start and a size."""
    size = draw.choice((1, 4, 16, 64, 512, max(1, len(data) // 3)))
    return draw.randrange(max(1, len(data) - size)), size


def _double(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    (at, size), to = _block(data, draw), draw.randrange(len(data))
    return data[:to] + data[at : at + size] + data[to:], f"{size} bytes at {at} doubled at {to}"


def _swap(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    (at, size), (to, _) = _block(data, draw), _block(data, draw)
    at, to = min(at, to), max(at, to)
    size = min(size, to - at, len(data) - to)
    first, second = data[at : at + size], data[to : to + size]
    found = data[:at] + second + data[at + size : to] + first + data[to + size :]
    return found, f"{size} bytes at {at} and {to} swapped"


def _remove(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    at, size = _block(data, draw)
    return data[:at] + data[at + size :], f"{size} bytes at {at} removed"


def _zero(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    at, size = _block(data, draw)
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :], f"{size} zero bytes at {at}"


def _whole(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    new = draw.choice((b"", b"\n", b"\x00" * 100, draw.randbytes(300), b"{}", b"[]", b"null", data + data))
    return new, f"a file of {len(new)} bytes that begins with {new[:12]!r}"


# ---- JSON ------------------------------------------------------------------------------------------------------------


def _json(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Change one value, or the values of one line."""
    lines = data.decode().splitlines(keepends=True)
    if len(lines) > 1 and lines[0].rstrip().endswith("}"):
        number = draw.randrange(len(lines))
        new, how = _json_text(lines[number], draw)
        return "".join([*lines[:number], new, *lines[number + 1 :]]).encode("utf-8", "surrogatepass"), how
    new, how = _json_text(data.decode(), draw)
    return new.encode("utf-8", "surrogatepass"), how


def _json_text(text: str, draw: random.Random) -> tuple[str, str]:
    content = json.loads(text)
    if draw.random() < 0.15:
        return _raw_value(content, draw)
    how = []
    for _ in range(draw.choice((1, 1, 1, 2))):
        how.append(_change(content, draw))
    return json.dumps(content, ensure_ascii=draw.random() < 0.5) + "\n", "; ".join(how)


def _raw_value(content: Any, draw: random.Random) -> tuple[str, str]:
    """Replace one value by text that JSON of a library would not write."""
    holder, key, where = _node(content, draw)
    holder[key] = "@@"
    token = draw.choice((*TOKENS[:13], "NaN", "1e400", '{"a": 1, "a": 2}', '"\\ud800"', "[" * 200 + "]" * 200))
    return json.dumps(content).replace('"@@"', token), f"{where} is {token[:20]}"


def _node(content: Any, draw: random.Random) -> tuple[Any, Any, str]:
    """A random value: what holds it, its key, and its path."""
    path, holder, key = [], None, None
    while isinstance(content, (dict, list)) and content and (holder is None or draw.random() < 0.75):
        holder, key = content, draw.choice(sorted(content) if isinstance(content, dict) else range(len(content)))
        path.append(str(key))
        content = content[key]
    if holder is None:
        raise ValueError("no value")
    return holder, key, ".".join(path)


def _change(content: Any, draw: random.Random) -> str:
    holder, key, where = _node(content, draw)
    value, way = holder[key], draw.randrange(8)
    if way == 0:
        del holder[key]
        return f"{where} removed"
    if way == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
        return f"{where} renamed"
    if way == 2 and len(holder) > 1:
        other = draw.choice(sorted(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
        return f"{where} and {other} swapped"
    if way == 3 and isinstance(value, list):
        value *= draw.choice((0, 2, 50))
        return f"{where} has {len(value)} items"
    if way == 4 and isinstance(value, (int, float)) and not isinstance(value, bool):
        holder[key] = draw.choice((value + 1, -value, value * 1000, value + 0.5, str(value)))
        return f"{where} is {holder[key]!r}"
    if way == 5 and isinstance(value, str):
        holder[key] = draw.choice((value[::-1], value + draw.choice(HOSTILE[:-1]), value.upper(), value[:-1], [value]))
        return f"{where} is {str(holder[key])[:40]!r}"
    if way == 6 and isinstance(holder, dict):
        holder[draw.choice(("x", "format", "type", "auto_map", *HOSTILE[:-1]))] = draw.choice(VALUES)
        return f"a key beside {where}"
    holder[key] = draw.choice(VALUES)
    return f"{where} is {str(holder[key])[:40]!r}"


def _header(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Change the JSON header of a file of safetensors, or the size that it states of it."""
    size = struct.unpack("<Q", data[:8])[0]
    if draw.random() < 0.2:
        new = draw.choice((0, 1, size + 1, size - 1, len(data), 2**31, 2**40, 2**63, 2**64 - 1))
        return struct.pack("<Q", new) + data[8:], f"the header has {new} bytes"
    text, how = _json_text(data[8 : 8 + size].decode(), draw)
    header = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(header)) + header + data[8 + size :], f"header: {how}"


# ---- text ------------------------------------------------------------------------------------------------------------


def _token(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Put a hostile word in the place of a word, a number or a separator."""
    text = data.decode()
    start = draw.randrange(len(text))
    end = start + draw.choice((0, 1, 1, 3))
    while end < len(text) and text[end].isalnum() and draw.random() < 0.9:
        end += 1
    new = draw.choice((*TOKENS, *HOSTILE))
    found = text[:start] + new + text[end:]
    return found.encode("utf-8", "surrogatepass"), f"{new[:20]!r} for {text[start:end]!r} at {start}"


def _lines(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Remove, double, swap or join lines, or write other line ends."""
    lines = data.decode().split("\n")
    at, other, way = draw.randrange(len(lines)), draw.randrange(len(lines)), draw.randrange(6)
    if way == 0:
        del lines[at]
    elif way == 1:
        lines[at:at] = [lines[at]] * draw.choice((1, 1, 300))
    elif way == 2:
        lines[at], lines[other] = lines[other], lines[at]
    elif way == 3:
        lines[at : at + 2] = ["".join(lines[at : at + 2])]
    elif way == 4:
        lines[at] = draw.choice((" ", "\t", "#", "# x = y", "---", "...", "-DOCSTART- O", "1-2\tx", "\u2028"))
    else:
        end = draw.choice(("\r\n", "\r", "\u2028", "\x85", "\n\n"))
        return end.join(lines).encode(), f"line ends {end!r}"
    return "\n".join(lines).encode(), f"lines {at}, {other}: way {way}"


def _encoding(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    code = draw.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "utf-7"))
    return data.decode().encode(code, "replace"), f"written as {code}"


def _bomb(data: bytes, draw: random.Random) -> tuple[bytes, str]:
    new = draw.choice((BOMB, "x: " + "[" * 50_000, "x: " + "9" * 5_000, "- " * 3_000, "? " * 3_000, "a: " * 300 + "1"))
    return data + b"\n" + new.encode(), f"at the end {new[:20]!r}..."


_BYTES = (_flip, _flip, _flip, _set, _set, _cut, _insert, _double, _swap, _remove, _zero, _whole)
_TEXT = (_token, _token, _token, _lines, _lines, _encoding)
WAYS: dict[str, tuple[Change, ...]] = {
    "bytes": _BYTES,
    "json": (_json, _json, _json, _json, _token),
    "safetensors": (_header,),
    "text": _TEXT,
    "yaml": (*_TEXT, _token, _bomb),
}
