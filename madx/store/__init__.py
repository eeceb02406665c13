"""The store: a folder of modules."""

from madx.store.files import check_target, load_module, read_info, read_stored, save_module, write_stored
from madx.store.manifest import FORMAT, LAYOUT, check_language
from madx.store.store import Store, StoredModule
from madx.store.weights import DTYPES

__all__ = [
    "DTYPES",
    "FORMAT",
    "LAYOUT",
    "Store",
    "StoredModule",
    "check_language",
    "check_target",
    "load_module",
    "read_info",
    "read_stored",
    "save_module",
    "write_stored",
]
