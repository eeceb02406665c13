"""Adapters, heads and stacks of AdapterHub."""

from madx.interop.adapterhub.exporting import export_adapterhub, export_adapterhub_fusion
from madx.interop.adapterhub.format import AdapterHub
from madx.interop.adapterhub.fusion import import_adapterhub_fusion
from madx.interop.adapterhub.importing import import_adapterhub
from madx.interop.adapterhub.setup import export_adapterhub_setup, import_adapterhub_setup

__all__ = [
    "AdapterHub",
    "export_adapterhub",
    "export_adapterhub_fusion",
    "export_adapterhub_setup",
    "import_adapterhub",
    "import_adapterhub_fusion",
    "import_adapterhub_setup",
]
