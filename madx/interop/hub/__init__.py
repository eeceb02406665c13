"""The Hugging Face hub: modules pulled from it and pushed to it."""

from madx.interop.hub.hub import Hub, load

__all__ = [
    "Hub",
    "load",
]
