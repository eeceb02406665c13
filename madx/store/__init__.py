"""The store: a folder of modules."""

from madx.store.store import (
    DTYPES,
    FORMAT,
    LAYOUT,
    Store,
    StoredModule,
    check_language,
    check_target,
    load_module,
    read_info,
    read_stored,
    save_module,
    write_stored,
)

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
