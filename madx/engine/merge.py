"""Merges a composition into the base's own weights: weight deltas, and changes of linear maps that are affine.

At a linear map y = W x + b, a unit whose type is `affine` (LoRA, DoRA, KronA, (IA)^3) makes of y another affine
function of x, and so does any stack, average or factor of such units. Its matrix and bias are read off the steps of
the plan themselves, so that no rule of a composition is written a second time:

    W' = the outputs for the unit vectors and a bias of zero        b' = the output for x = 0

Nothing else can be merged: a bottleneck computes with a nonlinearity, a prefix adds positions, a map of the embeddings
is inverted before the decoder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from madx.base.fingerprints import base_fingerprint
from madx.composition import require_stack
from madx.contract.module_type import MODULE_TYPES, ChangeType, ModuleType, WeightsType
from madx.contract.rules import Steps
from madx.contract.views import Projection, Tokens
from madx.engine.decoder import decoder_weights
from madx.engine.protocols import RunningEngine
from madx.errors import CompositionError
from madx.module import Module, require_first_piece

#: The number of unit vectors that are sent through the steps at a time.
RUN = 1024


def require_mergeable(engine: RunningEngine, what: str) -> tuple[str, ...]:
    """Return the modules of the active composition.

    Raises CompositionError unless all that they do can be written into the base's weights, the same for all rows; it
    names each component that cannot. what: completes its message, "cannot be ...".
    """
    names = require_stack(engine.composition, what).names()
    if not names:
        raise CompositionError(
            f"'{engine.composition}' cannot be {what}: nothing is active. Activate the composition to be written first."
        )
    faults = [f"{name} ({', '.join(computing)})" for name in names if (computing := _computing(engine.modules[name]))]
    if faults:
        raise CompositionError(
            f"'{engine.composition}' cannot be {what}: {', '.join(faults)} computes something that weights cannot "
            f"express. Activate a composition of {', '.join(_types_that_merge())} alone."
        )
    return names


def _types_that_merge() -> list[str]:
    """The module types that become weights, at least with some of their settings."""
    kinds = {name: MODULE_TYPES.get(name) for name in MODULE_TYPES}
    return [n for n, kind in kinds.items() if issubclass(kind, WeightsType) or getattr(kind, "affine", False)]


def _computing(module: Module) -> list[str]:
    """The components of a module that cannot become weights, each once."""
    units = [(c, u) for site, here in module.units.items() if site != "weights" for c, u in here.items()]
    return list(dict.fromkeys(c for c, u in units if not _becomes_weights(u)))


def _becomes_weights(unit: ModuleType) -> bool:
    return isinstance(unit, ChangeType) and unit.affine and unit.site.kind == "linear"


def merge(engine: RunningEngine) -> nn.Linear | None:
    """Make the active composition part of the base's own weights; returns the head of its task module, if any.

    The base gets another name and fingerprint, the modules are detached, and the masked-LM decoder keeps theta_0.
    Raises CompositionError for a composition that weights cannot express, or none at all; ConfigError for a head with
    another pooling than `first`, which alone would not predict the same.
    """
    names, base = require_mergeable(engine, "merged into the base"), engine.base
    with_head = [engine.modules[n] for n in names if engine.modules[n].head is not None]
    if with_head:
        require_first_piece(with_head[-1], "a head by itself")
    maps, decoders = merged_maps(engine), decoder_weights(engine.deltas)
    for path, weight in decoders.items():
        decoder = base.model.get_submodule(path.rpartition(".")[0])
        decoder.weight = nn.Parameter(weight, requires_grad=False)
        base.config.tie_word_embeddings = False
    engine.deltas.keep()
    with torch.no_grad():
        for name, value in maps.items():
            base.encoder.get_parameter(name).copy_(value)
    base.name = f"{base.name} + {engine.composition}"
    base.fingerprint, base.revision = base_fingerprint(base.encoder), None
    engine.activate(None)
    for name in names:
        engine.detach(name)
    return with_head[-1].head if with_head else None


@torch.no_grad()
def merged_maps(engine: RunningEngine) -> dict[str, Tensor]:
    """Return the weights and biases of all linear maps that the active composition changes, by name in the encoder.

    They include the weight deltas that are on the base now. Raises CompositionError for a change that turns out not to
    be affine, or that needs a bias where the base has none.
    """
    base = engine.base
    found: dict[str, Tensor] = {}
    layers: Any = base.encoder.get_submodule(base.family.layers)
    with _in_evaluation(list(engine.modules.values())):
        for site in base.sites.values():
            steps = engine.plan.get(site.name) if site.kind == "linear" else None
            if not steps:
                continue
            place = base.family.maps[f"{site.place}.{site.map}"]
            linear: Any = layers[site.layer].get_submodule(place.path)
            part = slice(place.share * site.width, (place.share + 1) * site.width)
            prefix = f"{base.family.layers}.{site.layer}.{place.path}"
            bias = None if linear.bias is None else linear.bias[part]
            weight, offset = _affine(steps, linear.weight[part], bias, site.name)
            found.setdefault(f"{prefix}.weight", linear.weight.detach().clone())[part] = weight
            if bias is not None:
                found.setdefault(f"{prefix}.bias", linear.bias.detach().clone())[part] = offset
            elif bool(offset.any()):
                raise CompositionError(
                    f"'{engine.composition}' needs a bias at {site.name}, but the base has none there, so it cannot be "
                    "written into its weights. Keep the modules."
                )
    return found


def _affine(steps: Steps, W: Tensor, b: Tensor | None, site: str) -> tuple[Tensor, Tensor]:
    """(W' `(width, input width)`, b' `(width,)`) that some steps make of W and b.

    Raises CompositionError if the steps give something else for a random input than W' and b'.
    """

    def changed(x: Tensor, bias: Tensor | None) -> Tensor:
        y = nn.functional.linear(x, W, bias)
        view = Projection(y, {"input": x}, Tokens(), W, bias)
        for step in steps:
            view.add(step(view))
        return view.value[0]

    inputs = W.shape[1]
    unit_vectors = torch.eye(inputs, dtype=W.dtype, device=W.device)
    nothing = None if b is None else torch.zeros_like(b)
    W_new = torch.cat([changed(rows[None], nothing) for rows in unit_vectors.split(RUN)]).T
    b_new = changed(torch.zeros(1, 1, inputs, dtype=W.dtype, device=W.device), b)[0]
    x = torch.randn(1, 3, inputs, generator=torch.Generator().manual_seed(0)).to(W)
    wanted, got = changed(x, b).float(), nn.functional.linear(x, W_new, b_new)[0].float()
    if not torch.allclose(got, wanted, rtol=0, atol=100 * torch.finfo(W.dtype).eps * float(wanted.abs().max() + 1)):
        raise CompositionError(
            f"The change at {site} is not an affine function of the input, so it cannot be written into the base's "
            "weights. Keep the modules; a module type that states affine = True must be affine in evaluation."
        )
    return W_new, b_new


@contextmanager
def _in_evaluation(modules: list[Module]) -> Iterator[None]:
    """Have all parts of some modules in evaluation, without dropout, and restore each of them afterwards."""
    before = [(part, part.training) for module in modules for part in module.modules()]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for part, training in before:
            part.training = training
