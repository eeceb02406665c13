"""JSON under a checksum, read strictly: records of modules, block caches, transfer matrices, run folders.

A file that madx writes and reads again holds the key `checksum`: the sha256 of all its other keys in canonical JSON
(sorted keys, no spaces, UTF-8). It guards against accidents, not against forgery: whoever can write the file can
compute it anew. Strict reading refuses what one reader takes otherwise than another: a key that stands twice, NaN, a
number beyond the largest one, half of a surrogate pair.
"""

import hashlib
import json
import math
from collections import Counter
from typing import Any

CHECKSUM = "checksum"
#: levels of lists and objects inside each other; what madx writes has fewer than ten
MOST_LEVELS = 64
TOO_DEEP = f"more than {MOST_LEVELS} levels of lists and objects inside each other"
#: digits of a whole number: more do not fit into a floating-point number, so that no figure could be printed
MOST_DIGITS = 300


def checksum(content: dict[str, Any]) -> str:
    """The checksum of a file's content, as plain data.

    >>> checksum({"name": "swa", "labels": []})[:8] == checksum({"labels": [], "name": "swa", "checksum": ""})[:8]
    True
    """
    fields = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(_canonical(fields)).hexdigest()


def fault_of_checksum(content: Any) -> str:
    """The disagreement of a content with its own checksum, in words; empty when they agree."""
    if not isinstance(content, dict):
        return f"it holds a {type(content).__name__}, not an object with a checksum"
    recorded = content.get(CHECKSUM)
    if recorded is None:
        return "missing"
    if recorded == (found := checksum(content)):
        return ""
    return f"{recorded!r:.13}... is recorded, the fields give '{found[:12]}...': some field is not as it was stored"


def parse_json(data: bytes, *, most_values: float = math.inf) -> Any:
    """The content of a JSON text that can be written again. Raises ValueError, in words, for anything else."""
    try:
        content = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_no_key_twice,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole,
        )
        _require_bounded(content, most_values)
        _canonical(content)  # half of a surrogate pair, written as an escape, is no text in UTF-8
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except MemoryError:
        raise ValueError(f"its {len(data):,} bytes need more memory than there is") from None
    return content


def _require_bounded(content: Any, most_values: float) -> None:
    """Raise ValueError for too many values, or too many levels of lists and objects inside each other."""
    level, count = [content], 1
    for _ in range(MOST_LEVELS + 1):
        if count > most_values:
            raise ValueError(f"more than {most_values:,} values")
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
        count += len(level)
    raise ValueError(TOO_DEEP)


def _canonical(content: Any) -> bytes:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8")


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        ((key, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {key!r:.80} is there twice")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant:.40} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text):,} digits; at most {MOST_DIGITS} are read")
    return int(text)
