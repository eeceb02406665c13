"""`weights.safetensors`: the tensors of a module as bytes, and all that they can say against `module.json`."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from madx.errors import StoreError, did_you_mean
from madx.module import Module
from madx.module_types import MODULE_TYPES
from madx.store.manifest import LAYOUT, Manifest, WeightsRecord, manifest_of
from madx.store.tensors import TensorFile, read_tensors

#: what weights can be stored as; they are always loaded as float32
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

PIECE = 32_767  # numbers; torch starts threads for more


def encode(module: Module, dtype: str) -> tuple[Manifest, bytes]:
    """The two files of a module; raises StoreError for what must not be stored."""
    from safetensors.torch import save

    if dtype not in DTYPES:
        raise StoreError(f"Weights cannot be stored as {dtype!r}; {did_you_mean(dtype, DTYPES)}")
    rows = module.head.out_features if module.head is not None else 0
    if rows != len(module.info.labels):
        raise StoreError(
            f"The module {module.name!r} names {len(module.info.labels)} labels, but its head has {rows} rows. "
            "Labels are set when the module is made; make it anew with the right ones."
        )
    own = module.tensors()
    packed = {start: unit.pack(DTYPES[dtype]) for start, unit in module.packed_units().items()}
    # copied, so that tensors that share memory are stored each
    tensors = {
        name: t.detach().to("cpu", _stored_as(t, dtype), copy=True).contiguous()
        for name, t in own.items()
        if not name.startswith(tuple(packed))
    }
    tensors |= {start + name: t.contiguous() for start, ts in packed.items() for name, t in ts.items()}
    faults = []
    for name, tensor in tensors.items():
        if (count := _not_finite(tensor)) and (wrong := _not_finite(own[name])):
            faults.append(f"{name}: {wrong} of {tensor.numel()} numbers are infinite or not a number")
        elif count:
            faults.append(f"{name}: {count} numbers are too large for {dtype}; store as float32 or bfloat16")
    if faults:
        raise StoreError(f"The module {module.name!r} cannot be stored:\n  " + "\n  ".join(faults))
    data = save(tensors, metadata={"format": "pt"})
    weights = WeightsRecord(
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        dtype=dtype,
        parameters=_numbers(tensors),
    )
    return manifest_of(module.info, weights), data


def read_weights(folder: Path, manifest: Manifest) -> TensorFile:
    """The weights file, if it has the size that `module.json` records; its bytes are still to be summed. Raises StoreError
    for another size, and OSError."""
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
    """The tensors of a weights file as stored, for a block that makes use of them while a thread takes their sha256. Raises
    StoreError, in place of whatever the block ran into, when that is not the one in `module.json`."""
    path, record = folder / LAYOUT.weights, manifest.weights.sha256
    with ThreadPoolExecutor(1) as pool:
        summing = pool.submit(file.sha256)

        def check() -> None:
            if (found := summing.result()) != record:
                raise StoreError(
                    f"{path} is damaged or was altered: its sha256 is {found[:12]}..., {LAYOUT.manifest} records {record[:12]}.... "
                    "Fetch the module again."
                )

        try:
            if file.fault:
                raise StoreError(f"{path} is no safetensors file of weights: {file.fault}. Fetch the module again.")
            yield file.tensors
        except Exception:
            check()
            raise
        check()


def to_state(tensors: dict[str, Tensor], module: Module, manifest: Manifest) -> tuple[dict[str, Tensor], list[str]]:
    """(the module's state in float32, every difference of name, shape and type between the stored tensors and those that
    its settings ask for). The state is to be used only when there is no fault."""
    packed, state = module.packed_units(), {}
    expected = {k: v for k, v in module.state_dict().items() if not k.startswith(tuple(packed))}
    faults = [f"{name}: missing in the file" for name in expected if name not in tensors]
    for name, tensor in tensors.items():
        if name.startswith(tuple(packed)):
            continue
        if name not in expected:
            faults.append(f"{name}: not a tensor of this module")
            continue
        shape, dtype = tuple(expected[name].shape), _stored_as(expected[name], manifest.weights.dtype)
        if tuple(tensor.shape) != shape:
            hint = f" ({len(manifest.labels)} labels)" if name.startswith("head.") else ""
            faults.append(f"{name}: shape {tuple(tensor.shape)}, expected {shape}{hint}")
        if tensor.dtype != dtype:
            faults.append(f"{name}: {_name(tensor.dtype)}, expected {_name(dtype)}")
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    for start, unit in packed.items():
        own = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
        try:
            state |= {start + k: v for k, v in unit.unpack(own).items()}
        except StoreError as error:
            faults.append(f"{start[:-1]}: {error}")
    faults += own_faults({k: v for k, v in tensors.items() if not k.startswith(tuple(packed))}, manifest, whole=tensors)
    return state, list(dict.fromkeys(faults))


def own_faults(tensors: dict[str, Tensor], manifest: Manifest, *, whole: dict[str, Tensor] | None = None) -> list[str]:
    """What the weights and `module.json` say against each other, or against sense, without any base at hand.

    whole: all tensors, where `tensors` leaves out those that are looked at elsewhere.
    """
    faults, labels, whole = [], len(manifest.labels), whole if whole is not None else tensors
    types = {component.type for component in manifest.components}
    packed = {kind for kind in types if MODULE_TYPES.get(kind).packed}
    for kind in sorted(packed):
        starts = {name[: name.index(f"{kind}.") + len(kind) + 1] for name in tensors if f".{kind}." in name}
        for start in sorted(starts):
            stored = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            faults += [f"{start[:-1]}: {fault}" for fault in MODULE_TYPES.get(kind).stored_faults(stored)]
    if bool(labels) != any(name.startswith("head.") for name in tensors):
        faults.append(f"head: {LAYOUT.manifest} names {labels} labels, the weights have {'no' if labels else 'a'} head")
    elif "head.bias" in tensors and tuple(tensors["head.bias"].shape) != (labels,):
        rows = tensors["head.bias"].numel()
        faults.append(f"head: {LAYOUT.manifest} names {labels} labels, the weights have {rows} rows")
    for name, tensor in whole.items():
        if not name.startswith("head.") and not types & set(name.split(".")[:-1]):
            faults.append(f"{name}: belongs to none of the components {', '.join(sorted(types)) or '(there are none)'}")
        own_form = packed & set(name.split("."))
        if tensor.is_floating_point() and tensor.dtype != DTYPES[manifest.weights.dtype] and not own_form:
            faults.append(f"{name}: stored as {_name(tensor.dtype)}, recorded as {manifest.weights.dtype}")
        if count := _not_finite(tensor):
            faults.append(f"{name}: {count} of {tensor.numel()} numbers are infinite or not a number")
    if (numbers := _numbers(whole)) != manifest.weights.parameters:
        faults.append(f"weights: {numbers} numbers, {LAYOUT.manifest} records {manifest.weights.parameters}")
    return list(dict.fromkeys(faults))


def _numbers(tensors: dict[str, Tensor]) -> int:
    """Weights, without the bytes that say where they belong."""
    return sum(t.numel() for t in tensors.values() if t.is_floating_point())


def _stored_as(tensor: Tensor, dtype: str) -> torch.dtype:
    return DTYPES[dtype] if tensor.is_floating_point() else tensor.dtype


def _not_finite(tensor: Tensor) -> int:
    """How many numbers are infinite or undefined. Any of them shows in a sum, which costs a twentieth of looking. Summed in
    pieces for which torch starts no threads: those would wait for the one that takes the sha256."""
    if not tensor.is_floating_point():
        return 0
    sums = [piece.sum(dtype=torch.float32) for piece in tensor.reshape(-1).split(PIECE)]
    return 0 if bool(torch.stack(sums).isfinite().all()) else int((~tensor.isfinite()).sum())


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
