"""Merges weight deltas into the base's own weights, for good."""

from torch import nn

from madx.base.fingerprints import base_fingerprint
from madx.composition import require_stack
from madx.engine.decoder import decoder_weights
from madx.engine.protocols import RunningEngine
from madx.errors import CompositionError
from madx.module import require_first_piece


def require_weights_alone(engine: RunningEngine, what: str) -> tuple[str, ...]:
    """Return the modules of the active composition.

    Raises CompositionError unless they are weight deltas (and heads) alone, the same for all rows. what: completes its
    message, "cannot be ...".
    """
    names = require_stack(engine.composition, what).names()
    computing = [n for n in names if any(site != "weights" for site in engine.modules[n].units)]
    if not names or computing:
        raise CompositionError(
            f"'{engine.composition}' cannot be {what}: "
            + (f"{', '.join(computing)} computes something during the forward pass." if names else "nothing is active.")
            + " Activate a composition of weight deltas alone."
        )
    return names


def merge(engine: RunningEngine) -> nn.Linear | None:
    """Make the active composition part of the base's own weights; returns the head of its task module, if any.

    The base gets another name and fingerprint, the modules are detached, and the masked-LM decoder keeps theta_0.
    Raises CompositionError for a composition that has other components than weight deltas, or none at all; ConfigError
    for a head with another pooling than `first`, which alone would not predict the same.
    """
    names, base = require_weights_alone(engine, "merged into the base"), engine.base
    with_head = [engine.modules[n] for n in names if engine.modules[n].head is not None]
    if with_head:
        require_first_piece(with_head[-1], "a head by itself")
    for path, weight in decoder_weights(engine.deltas).items():
        decoder = base.model.get_submodule(path.rpartition(".")[0])
        decoder.weight = nn.Parameter(weight, requires_grad=False)
        base.config.tie_word_embeddings = False
    engine.deltas.keep()
    base.name = f"{base.name} + {engine.composition}"
    base.fingerprint, base.revision = base_fingerprint(base.encoder), None
    engine.activate(None)
    for name in names:
        engine.detach(name)
    return with_head[-1].head if with_head else None
