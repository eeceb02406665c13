"""The masked-LM head that predictions use: the base's own, else the one that `madx train-head` stored for this base."""

import logging
from collections.abc import Iterable

from madx.base import Base
from madx.engine.protocols import ModuleStore
from madx.errors import BaseError
from madx.module import Module

log = logging.getLogger("madx")


def find_mlm_head(base: Base, store: ModuleStore | None) -> bool:
    """Return true if a base has a trained masked-LM head, where need be after putting one of the store on it."""
    return base.has_mlm_head or store is not None and store.put_head(base) is not None


def require_mlm_head(base: Base, acting: Iterable[Module], store: ModuleStore | None) -> None:
    """Have a trained masked-LM head on the base, from the store where the base has none of its own.

    acting: the modules of the active composition. A language module that was trained with another head is told once:
    its scores over the vocabulary are not those it was trained for. Raises BaseError where there is no trained head.
    """
    head = base.mlm_head
    if not find_mlm_head(base, store):
        raise BaseError(
            f"{head.complaint()} One that is stored is found by Engine(base, store=Store('modules'))."
            if store is None
            else head.complaint()
        )
    for module in acting:
        training = module.info.training
        its = training.get("mlm_head")
        on_text = module.info.role == "language" or module.info.role == "fusion" and not module.info.labels
        trained = on_text and "job" in training
        if trained and its != head.sha256 and (module.name, its) not in head.told:
            head.told.add((module.name, its))
            log.warning(
                "The language module %s was trained with %s, but masked words are predicted with %s now: expect worse "
                "predictions. Train the module anew, or use the store and the setting mlm_head that it was trained "
                "with.",
                *(module.name, named(its), named(head.sha256)),
            )


def named(sha256: str | None) -> str:
    """Name a head in a message, by the sha256 of its weights; None is the base's own."""
    return "the base's own masked-LM head" if sha256 is None else f"the masked-LM head {sha256[:12]}"
