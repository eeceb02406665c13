"""The Hugging Face hub: modules pushed to it and pulled from it."""

from madx.interop.hub.hub import Hub, load
from madx.interop.hub.upload import Pushed

__all__ = ["Hub", "Pushed", "load"]
