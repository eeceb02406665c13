"""`module.json` as text: written with a checksum, read with every fault at once.

The checksum is the sha256 of the record in canonical JSON: all keys but `checksum` itself, sorted, without spaces, in
UTF-8. Labels, components and scores decide what a user gets, so an altered record is refused as altered weights are.
"""

import json
import math
import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from madx.checksums import (
    CHECKSUM,
    MOST_DIGITS,
    MOST_LEVELS,
    TOO_DEEP,
    checksum,
    fault_of_checksum,
    parse_json,
)
from madx.config import faults_of
from madx.errors import StoreError
from madx.module import ModuleInfo
from madx.store.manifest import FORMAT, Manifest, WeightsRecord
from madx.store.version1 import KEYS, current_keys

#: bytes and values that a record may have: a corpus of thirty thousand files is listed in as many
MOST_BYTES, MOST_VALUES = 8 << 20, 250_000


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
    source = f"The module {info.name!r} cannot be stored"
    plain = _plain(content, (), faults)
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
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        _bounded(text.encode())
    except ValueError as error:
        raise StoreError(
            f"The record of {manifest.name!r} could not be read again: {error}. Shorten module.info.training, for "
            "example its list of data files or its history, and store it then."
        ) from None
    return text


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
    faults = _checksum_faults(content)
    return _validated({key: value for key, value in content.items() if key != CHECKSUM}, source, faults)


def _checksum_faults(content: dict[str, Any]) -> list[str]:
    fault = fault_of_checksum(content)
    if not fault:
        return []
    advice = (
        "fetch the module again"
        if CHECKSUM not in content
        else "undo the change, or fetch the module again. To change a record on purpose, load the module, change "
        "`module.info` and save it"
    )
    return [f"{CHECKSUM}: {fault}; {advice}"]


def _parsed(data: bytes, source: str) -> Any:
    """The content of a JSON text that can be written again. Raises StoreError."""
    try:
        return _bounded(data)
    except ValueError as error:
        raise StoreError(f"{source} is damaged: it cannot be read as JSON ({error}). Fetch the module again.") from None


def _bounded(data: bytes) -> Any:
    """The content of a JSON text of a record's size. Raises ValueError."""
    if len(data) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    return parse_json(data, most_values=MOST_VALUES)


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


def _plain(value: Any, at: tuple[str, ...], faults: list[str]) -> Any:
    """The value in JSON's own types, with numpy's numbers as JSON's; at: the keys that lead to it.

    Infinite and undefined numbers (a perplexity can be one) become the texts 'inf', '-inf', 'nan': a finished training
    must not fail to be stored for the sake of one score.
    """
    key = ".".join(at)
    if len(at) > MOST_LEVELS:
        raise StoreError(f"{key:.80}...: {TOO_DEEP}. Record it in fewer, or not at all.")
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                faults.append(f"{key}: the key {name!r} is no text")
        return {_plain(str(k), at, faults): _plain(v, (*at, str(k)), faults) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, (*at, str(i)), faults) for i, v in enumerate(value)]
    if isinstance(value, Integral) and not isinstance(value, bool):
        if abs(number := int(value)) < 10**MOST_DIGITS:
            return number
        faults.append(f"{key}: a whole number of more than {MOST_DIGITS} digits")
        return None
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else str(float(value))
    if value is not None and not isinstance(value, (str, bool)):
        faults.append(f"{key}: {type(value).__name__} is neither text, number, list nor dict: {value!r:.80}")
    if isinstance(value, str) and not value.isprintable() and re.search("[\ud800-\udfff]", value):
        faults.append(f"{key}: the text {value!r:.80} cannot be written as UTF-8")
    return value
