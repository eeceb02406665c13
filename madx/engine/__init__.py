"""The engine: it makes a composition of modules act on a base."""

from madx.engine.engine import Engine

__all__ = [
    "Engine",
]
