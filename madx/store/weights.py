"""`weights.safetensors`: the tensors of a module as bytes, and how they can disagree with `module.json`."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor

from madx.contract.module_type import ModuleType
from madx.errors import StoreError, did_you_mean
from madx.module import Module
from madx.module_types import MODULE_TYPES
from madx.store.manifest import LAYOUT, Manifest, WeightsRecord
from madx.store.module_json import manifest_of
from madx.store.tensors import TensorFile, read_tensors
from madx.store.version1 import current_names

#: number formats that weights can be stored in; they are always loaded as float32
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

PIECE = 32_767  # numbers; torch starts threads for more


def encode(module: Module, dtype: str) -> tuple[Manifest, bytes]:
    """The record of a module and the bytes of its weights file; raises StoreError for what must not be stored."""
    from safetensors.torch import save

    if dtype not in DTYPES:
        raise StoreError(f"Weights cannot be stored as {dtype!r}; {did_you_mean(dtype, DTYPES)}")
    rows = module.head.out_features if module.head is not None else 0
    if rows != len(module.info.labels):
        raise StoreError(
            f"The module {module.name!r} names {len(module.info.labels)} labels, but its head has {rows} rows. "
            "Labels are set when the module is made; make it anew with the right ones."
        )
    if module.pooling is not None and module.pooling.kind != module.info.pooling:
        raise StoreError(
            f"The module {module.name!r} records the pooling {module.info.pooling!r}, but reads words by "
            f"{module.pooling.kind!r}. The pooling is set when the module is made: set info.pooling back, or "
            "make it anew."
        )
    tensors = _stored_form(module, dtype)
    if faults := _unstorable(tensors, module.tensors(), dtype):
        raise StoreError(f"The module {module.name!r} cannot be stored:\n  " + "\n  ".join(faults))
    data = save(tensors, metadata={"format": "pt"})
    weights = WeightsRecord(
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        dtype=cast(Literal["float32", "float16", "bfloat16"], dtype),
        parameters=_numbers(tensors),
    )
    return manifest_of(module.info, weights), data


def _stored_form(module: Module, dtype: str) -> dict[str, Tensor]:
    """The tensors of the file: copies, so that those that share memory are each stored."""
    packed = {start: unit.pack(DTYPES[dtype]) for start, unit in module.packed_units().items()}
    tensors = {
        name: t.detach().to("cpu", _stored_as(t, dtype), copy=True).contiguous()
        for name, t in module.tensors().items()
        if not name.startswith(tuple(packed))
    }
    return tensors | {start + name: t.contiguous() for start, ts in packed.items() for name, t in ts.items()}


def _unstorable(tensors: dict[str, Tensor], own: dict[str, Tensor], dtype: str) -> list[str]:
    """A fault for each tensor with numbers that are not finite. own: the module's tensors before conversion."""
    faults = []
    for name, tensor in tensors.items():
        if not (count := _not_finite(tensor)):
            continue
        if wrong := _not_finite(own.get(name, tensor)):
            faults.append(f"{name}: {wrong} of {tensor.numel()} numbers are infinite or not a number")
        else:
            faults.append(f"{name}: {count} numbers are too large for {dtype}; store as float32 or bfloat16")
    return faults


def read_weights(folder: Path, manifest: Manifest) -> TensorFile:
    """Read the weights file, if it has the size that `module.json` records; its sha256 is still to be taken.

    Raises StoreError for another size, and OSError.
    """
    path = folder / LAYOUT.weights
    if (size := path.stat().st_size) != manifest.weights.bytes:
        raise StoreError(
            f"{path} is damaged: it has {size} bytes, {LAYOUT.manifest} records {manifest.weights.bytes}. "
            "Fetch the module again."
        )
    try:
        return read_tensors(path)
    except (MemoryError, RuntimeError) as error:  # torch's for memory that there is not
        raise StoreError(f"{path} does not fit into this machine's memory: {size} bytes.") from error


@contextmanager
def undamaged(file: TensorFile, manifest: Manifest, folder: Path) -> Iterator[dict[str, Tensor]]:
    """Give the tensors of a weights file, under current names, to a block, while a thread takes the sha256.

    Raises StoreError, in place of any error of the block, when that is not the sha256 in `module.json`.
    """
    path, record = folder / LAYOUT.weights, manifest.weights.sha256
    with ThreadPoolExecutor(1) as pool:
        summing = pool.submit(file.sha256)

        def check() -> None:
            if (found := summing.result()) != record:
                raise StoreError(
                    f"{path} is damaged or was altered: its sha256 is {found[:12]}..., {LAYOUT.manifest} records "
                    f"{record[:12]}.... Fetch the module again."
                )

        try:
            if file.fault:
                raise StoreError(f"{path} is no safetensors file of weights: {file.fault}. Fetch the module again.")
            yield current_names(file.tensors) if manifest.format == 1 else file.tensors
        except Exception:
            check()
            raise
        check()


def to_state(tensors: dict[str, Tensor], module: Module, manifest: Manifest) -> tuple[dict[str, Tensor], list[str]]:
    """The state of a module from stored tensors, in float32, and every fault; only without faults may it be used.

    module: what the record's settings ask for; the faults name each difference of name, shape and type from it.
    """
    packed, state = module.packed_units(), {}
    expected = {k: v for k, v in module.state_dict().items() if not k.startswith(tuple(packed))}
    faults = [f"{name}: missing in the file" for name in expected if name not in tensors]
    for name, tensor in tensors.items():
        if name.startswith(tuple(packed)):
            continue
        if name not in expected:
            faults.append(f"{name}: not a tensor of this module")
            continue
        faults += _differences(name, tensor, expected[name], manifest)
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    for start, unit in packed.items():
        own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        try:
            state |= {start + k: v for k, v in unit.unpack(own).items()}
        except StoreError as error:
            faults.append(f"{start[:-1]}: {error}")
    faults += own_faults({k: v for k, v in tensors.items() if not k.startswith(tuple(packed))}, manifest, whole=tensors)
    return state, list(dict.fromkeys(faults))


def _differences(name: str, tensor: Tensor, expected: Tensor, manifest: Manifest) -> Iterator[str]:
    shape, dtype = tuple(expected.shape), _stored_as(expected, manifest.weights.dtype)
    if tuple(tensor.shape) != shape:
        hint = f" ({len(manifest.labels)} labels)" if name.startswith("head.") else ""
        yield f"{name}: shape {tuple(tensor.shape)}, expected {shape}{hint}"
    if tensor.dtype != dtype:
        yield f"{name}: {_name(tensor.dtype)}, expected {_name(dtype)}"


def own_faults(tensors: dict[str, Tensor], manifest: Manifest, *, whole: dict[str, Tensor] | None = None) -> list[str]:
    """Every fault of stored weights that shows without a base: disagreement with `module.json`, numbers that are none.

    whole: all tensors, where `tensors` leaves out those that are looked at elsewhere.
    """
    whole = whole if whole is not None else tensors
    kinds: dict[str, type[ModuleType]] = {c.type: MODULE_TYPES.get(c.type) for c in manifest.components}
    packed = {name for name, kind in kinds.items() if kind.packed}
    faults = [fault for name in sorted(packed) for fault in _packed_faults(name, kinds[name], tensors)]
    faults += _head_faults(tensors, len(manifest.labels))
    if ("pooling.weight" in tensors) != (manifest.pooling == "attention"):
        there = "one" if "pooling.weight" in tensors else "none"
        faults.append(f"pooling.weight: the pooling is {manifest.pooling}, the weights have {there}")
    for name, tensor in whole.items():
        steps = set(name.split("."))
        if not name.startswith(("head.", "pooling.")) and not kinds.keys() & set(name.split(".")[:-1]):
            faults.append(f"{name}: belongs to none of the components {', '.join(sorted(kinds)) or '(there are none)'}")
        if tensor.is_floating_point() and tensor.dtype != DTYPES[manifest.weights.dtype] and not packed & steps:
            faults.append(f"{name}: stored as {_name(tensor.dtype)}, recorded as {manifest.weights.dtype}")
        if count := _not_finite(tensor):
            faults.append(f"{name}: {count} of {tensor.numel()} numbers are infinite or not a number")
    if (numbers := _numbers(whole)) != manifest.weights.parameters:
        faults.append(f"weights: {numbers} numbers, {LAYOUT.manifest} records {manifest.weights.parameters}")
    return list(dict.fromkeys(faults))


def _packed_faults(name: str, kind: type[ModuleType], tensors: dict[str, Tensor]) -> Iterator[str]:
    """The faults of a component that is stored in a form of its own, at each of its sites."""
    starts = {tensor[: tensor.index(f"{name}.") + len(name) + 1] for tensor in tensors if f".{name}." in tensor}
    for start in sorted(starts):
        stored = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        yield from (f"{start[:-1]}: {fault}" for fault in kind.stored_faults(stored))


def _head_faults(tensors: dict[str, Tensor], labels: int) -> Iterator[str]:
    if bool(labels) != any(name.startswith("head.") for name in tensors):
        yield f"head: {LAYOUT.manifest} names {labels} labels, the weights have {'no' if labels else 'a'} head"
    elif "head.bias" in tensors and tuple(tensors["head.bias"].shape) != (labels,):
        rows = tensors["head.bias"].numel()
        yield f"head: {LAYOUT.manifest} names {labels} labels, the weights have {rows} rows"


def _numbers(tensors: dict[str, Tensor]) -> int:
    """How many numbers the weights have, without the bytes that say where they belong."""
    return sum(t.numel() for t in tensors.values() if t.is_floating_point())


def _stored_as(tensor: Tensor, dtype: str) -> torch.dtype:
    return DTYPES[dtype] if tensor.is_floating_point() else tensor.dtype


def _not_finite(tensor: Tensor) -> int:
    """How many numbers are infinite or undefined.

    Any of them shows in a sum, which costs a twentieth of looking at each. The sum is taken in pieces for which torch
    starts no threads: those would wait for the thread that takes the sha256.
    """
    if not tensor.is_floating_point():
        return 0
    sums = [piece.sum(dtype=torch.float32) for piece in torch.split(tensor.reshape(-1), PIECE)]
    return 0 if bool(torch.stack(sums).isfinite().all()) else int((~tensor.isfinite()).sum())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
