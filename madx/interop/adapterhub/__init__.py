"""Adapters, heads and stacks of AdapterHub."""

from madx.interop.adapterhub.format import (
    export_adapterhub,
    export_adapterhub_setup,
    import_adapterhub,
    import_adapterhub_setup,
)

__all__ = [
    "export_adapterhub",
    "export_adapterhub_setup",
    "import_adapterhub",
    "import_adapterhub_setup",
]
