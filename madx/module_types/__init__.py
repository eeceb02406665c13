"""Module types, one file each. A new file in this folder adds a module type: YAML, presets, store and tests find it.

See docs/module_types.md, "Add your own in one file".
"""

from madx.contract.module_type import MODULE_TYPES
from madx.registry import discover

discover(__name__)

__all__ = ["MODULE_TYPES"]
