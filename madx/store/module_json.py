"""`module.json` as text: written with a checksum, read with every fault at once.

The checksum is the sha256 of the record in canonical JSON: all keys but `checksum` itself, sorted, without spaces, in
UTF-8. Labels, components and scores decide what a user gets, so an altered record is refused as altered weights are.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from madx.config import faults_of
from madx.errors import StoreError
from madx.module import ModuleInfo
from madx.store.manifest import FORMAT, Manifest, WeightsRecord
from madx.store.version1 import KEYS, current_keys

CHECKSUM = "checksum"


def manifest_of(info: ModuleInfo, weights: WeightsRecord) -> Manifest:
    """The record of a module that is to be stored; raises StoreError naming every fault, so that none is written."""
    content = {
        "format": FORMAT,
        "name": info.name,
        "role": info.role,
        "language": info.language,
        "components": [
            {"type": n, "settings": config.model_dump(mode="json")} for n, config in info.components.items()
        ],
        "base": info.base,
        "tokenizer": info.tokenizer,
        "task": info.task,
        "labels": list(info.labels),
        "training": info.training,
        "licence": info.licence,
        "pooling": info.pooling,
        "weights": weights.model_dump(),
    }
    faults: list[str] = []
    plain = _plain(content, (), faults)
    source = f"The module {info.name!r} cannot be stored"
    if faults:
        raise StoreError(f"{source}:\n  " + "\n  ".join(faults))
    return _validated(plain, source)


def to_text(manifest: Manifest) -> str:
    """The text of `module.json`: sorted keys, two spaces, so that two versions compare line by line."""
    if manifest.format != FORMAT:
        raise StoreError(
            f"The record of {manifest.name!r} has format {manifest.format} and cannot be written without its weights: "
            "read both with madx.store.read_stored, which brings them to the current format."
        )
    content = manifest.content()
    content[CHECKSUM] = checksum(content)
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def from_text(data: bytes, source: str) -> Manifest:
    """Read `module.json`; raises StoreError naming the source and every fault."""
    content = _parsed(data, source)
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise StoreError(f"{source} is no module of madx: it has no format number ('format': {FORMAT}).")
    if version > FORMAT:
        raise StoreError(
            f"{source} was written by a newer madx: it has format {version}, this madx reads up to {FORMAT}. "
            "Update madx."
        )
    source = f"{source} is damaged or was altered"
    if version == 1:
        old_keys = [old for old, new in KEYS.items() if new not in content]
        return _validated(current_keys(content), source, old_keys=old_keys)
    faults = _checksum_faults(content.pop(CHECKSUM, None), checksum(content))
    return _validated(content, source, faults)


def checksum(content: dict[str, Any]) -> str:
    """The checksum of a record, as plain data.

    >>> checksum({"name": "swa", "labels": []})[:8] == checksum({"labels": [], "name": "swa", "checksum": ""})[:8]
    True
    """
    fields = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(_canonical(fields)).hexdigest()


def _canonical(content: Any) -> bytes:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8")


def _checksum_faults(recorded: Any, found: str) -> list[str]:
    if recorded == found:
        return []
    if recorded is None:
        return [f"{CHECKSUM}: missing; fetch the module again"]
    return [
        f"{CHECKSUM}: {recorded!r:.13}... is recorded, the fields give '{found[:12]}...': some field is not as it was "
        "stored. Undo the change, or fetch the module again. To change a record on purpose, load the module, change "
        "`module.info` and save it"
    ]


def _parsed(data: bytes, source: str) -> Any:
    """The content of a JSON text that can be written again. Raises StoreError."""
    try:
        content = json.loads(
            data.decode("utf-8"), object_pairs_hook=_no_key_twice, parse_constant=_refuse, parse_float=_finite
        )
        _canonical(content)  # a half of a surrogate pair, written as an escape, is no text in UTF-8
        return content
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{source} is damaged: it cannot be read as JSON ({error}). Fetch the module again.") from None


def _validated(
    content: dict[str, Any], source: str, faults: Iterable[str] = (), *, old_keys: Iterable[str] = ()
) -> Manifest:
    """The record, if it has no fault beside those found already. old_keys: keys of format 1 to name faults by."""
    manifest, wrong = faults_of(Manifest, content)
    for old in old_keys:
        wrong = [re.sub(rf"^{KEYS[old]}\b", old, fault) for fault in wrong]
    wrong += faults
    if manifest is None or wrong:
        raise StoreError(f"{source}:\n  " + "\n  ".join(wrong))
    return manifest


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is there twice")
    return found


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _plain(value: Any, at: tuple[str, ...], faults: list[str]) -> Any:
    """The value in JSON's own types, with numpy's numbers as JSON's; at: the keys that lead to it.

    Infinite and undefined numbers (a perplexity can be one) become the texts 'inf', '-inf', 'nan': a finished training
    must not fail to be stored for the sake of one score.
    """
    key = ".".join(at)
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                faults.append(f"{key}: the key {name!r} is no text")
        return {_plain(str(k), at, faults): _plain(v, (*at, str(k)), faults) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, (*at, str(i)), faults) for i, v in enumerate(value)]
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is not None and not isinstance(value, (str, bool)):
        faults.append(f"{key}: {type(value).__name__} is neither text, number, list nor dict: {value!r:.80}")
    if isinstance(value, str) and not value.isprintable() and re.search("[\ud800-\udfff]", value):
        faults.append(f"{key}: the text {value!r:.80} cannot be written as UTF-8")
    return value
