"""Module types, one file each. Adding a file to this folder adds a module type: YAML, store and tests find it by itself."""

from madx.contract.module_type import MODULE_TYPES
from madx.registry import discover

discover(__name__)

__all__ = ["MODULE_TYPES"]
