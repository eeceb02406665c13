"""Fusion layers of AdapterHub: `adapter_fusion_config.json` with `pytorch_model_adapter_fusion.bin` or
`model_adapter_fusion.safetensors`, in a folder of their own. They hold the names of the adapters that they join, but
not these adapters; a setup (`madx.interop.adapterhub.setup`) holds both.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from madx.base import Base
from madx.composition import Fuse
from madx.contract.module_type import ComponentConfig
from madx.data.text.files import sha256_of
from madx.errors import StoreError
from madx.files.places import user_path
from madx.interop.adapterhub.config import check_version
from madx.interop.adapterhub.files import FUSION_CONFIG, FUSION_WEIGHTS, read_tensors
from madx.interop.adapterhub.head import read_head
from madx.interop.adapterhub.layouts import layout_of
from madx.interop.adapterhub.links import translate
from madx.interop.adapterhub.methods import METHODS
from madx.interop.adapterhub.methods.method import Reading, Source
from madx.interop.adapterhub.origin import check_texts, compare_base, origin, settings_of, source_of
from madx.interop.files import other_files, read_json
from madx.interop.report import ImportReport
from madx.module import Module, ModuleInfo
from madx.module.presets import make_components

SET_READS = (
    "its query is taken to read LN(h + x), as the adapters of the layout seq_bn do; import a fusion over others with "
    "them, as a setup (save_adapter_setup)"
)


def import_adapterhub_fusion(
    path: str | Path,
    base: Base,
    *,
    name: str,
    reads: str | None = None,
    language: str | None = None,
    task: str | None = None,
    with_head: bool = True,
    allow_base_mismatch: bool = False,
) -> tuple[Module, ImportReport]:
    """Make a module of role fusion from a folder of a fusion layer, with a report on the folder's content.

    Args:
        name, language: of the module made.
        reads: input of the last joined adapter, which the query reads, too (`reads` of a bottleneck); None: LN(h + x).
        task, with_head, allow_base_mismatch: as in `import_adapterhub`.
    Raises StoreError, ConfigError or BaseError as `import_adapterhub` does.
    """
    folder = user_path(path)
    if not (folder / FUSION_CONFIG).is_file():
        raise StoreError(
            f"{folder} has no {FUSION_CONFIG}, so it is not a fusion of AdapterHub; give role language or task."
        )
    full = read_json(folder / FUSION_CONFIG)
    check_version(full.get("version"))
    check_texts(full, folder / FUSION_CONFIG)
    ignored = compare_base(full, base, allow_base_mismatch)
    stored, file = read_tensors(folder, FUSION_WEIGHTS)
    reading = METHODS["fusion"].read(full.get("config"), Source(base.depth, full.get("version")))  # type: ignore[arg-type]
    components = _placed(reading, set(stored), base, reads)
    head = read_head(folder, base=base, role="task" if task else "language", owner=full.get("name"), wanted=with_head)
    info = ModuleInfo(
        name=name,
        role="fusion",
        language=language,
        components=components,
        base=base.identity(),
        task=task if head.labels else None,
        labels=head.labels,
        tokenizer=base.tokenizer_fingerprint,
        training={
            "imported": origin(full) | {"sha256": sha256_of(folder / file)},
            "joins": _joined(full, folder / FUSION_CONFIG),
        },
    )
    with torch.device("meta"):
        module = Module(info, base.sites)
    found = translate(stored, module, base=base, owner=full.get("name"), file=folder / file)
    module.load_state_dict(found.tensors | head.tensors, strict=True, assign=True)
    ignored += reading.ignored + found.ignored + head.ignored
    report = ImportReport(
        name=name,
        folder=str(folder),
        source=source_of(full),
        mapped=tuple(found.mapped + head.mapped),
        ignored=tuple(ignored + other_files(folder, {FUSION_CONFIG, file} | head.files)),
        settings=tuple(f"{component}: {settings_of(config)}" for component, config in components.items()),
    )
    return module.to(base.device), report


def _placed(reading: Reading, keys: set[str], base: Base, reads: str | None) -> dict[str, ComponentConfig]:
    """The component with the places and layers that the file has."""
    layout, settings = layout_of(base.config.model_type), reading.components["fusion"].model_dump()
    names = {layout.parse(key).name for key in keys}
    has = {
        (place, layer)
        for place in ("attention", "ffn")
        for layer in range(base.depth)
        if any(name.startswith(f"{layout.at(f'layer.{layer}.{place}')}.adapter_fusion_layer.") for name in names)
    }
    if not has:
        raise StoreError(
            "The files hold no fusion layer of this base's sublayers; they are damaged or of another base."
        )
    if settings["reads"] == "sum_norm" and reads is None:
        reading.ignored.append(("query_before_ln false", SET_READS))
    elif settings["reads"] == "sum_norm":
        settings["reads"] = reads
    settings["places"] = [place for place in ("attention", "ffn") if any(p == place for p, _ in has)]
    settings["leave_out"] = [layer for layer in range(base.depth) if not any(at == layer for _, at in has)]
    return make_components({"fusion": settings})


def _joined(full: dict[str, Any], path: Path) -> list[str]:
    names = full.get("adapter_names") or (full.get("name") or "").split(",")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise StoreError(f"{path}: 'adapter_names' is {str(names)[:80]}; a list of names is expected.")
    return [name[:120] for name in names[:100]]


def joined_otherwise(item: Fuse, modules: Mapping[str, Module]) -> list[str]:
    """The reasons why the peer computes a fusion otherwise than madx; none for modules of one bottleneck layout."""
    faults, sites = [], set()
    for child in item.children:
        if len(child.items) != 1 or not isinstance(child.items[0], str):
            faults.append(f"{child} (there only the last module of a stack is joined, and no other composition)")
            continue
        components: dict[str, Any] = modules[child.items[0]].info.components
        if others := [name for name in components if name != "bottleneck"]:
            faults.append(f"the component {', '.join(others)} of {child} (only bottlenecks are joined there)")
            continue
        bottleneck = components.get("bottleneck")
        if (
            bottleneck is None
            or bottleneck.reads == "input"
            or bottleneck.residual != "output"
            or bottleneck.norm_after
        ):
            faults.append(f"{child} (there it joins f(z) of sequential bottlenecks, before residual and norms)")
        sites.add(frozenset(modules[child.items[0]].units))
    if len(sites) > 1:
        faults.append(f"{item} joins modules that act at different places (there the last one must act at all)")
    last, ours = item.children[-1].names()[-1], modules[item.fusion].info.components.get("fusion")
    theirs: Any = modules[last].info.components.get("bottleneck")
    if (
        isinstance(ours, ComponentConfig)
        and theirs is not None
        and getattr(ours, "reads", None) == "sum_norm" != theirs.reads
    ):
        faults.append(
            f"the query of {item.fusion} reads LN(h + x) (there it reads the input of {last}, {theirs.reads!r})"
        )
    return faults
