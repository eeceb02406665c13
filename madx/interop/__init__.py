"""Other people's files, in and out: one file per format."""

from madx.interop.adapterhub import export_adapterhub, import_adapterhub
from madx.interop.adapterhub_setup import export_adapterhub_setup, import_adapterhub_setup
from madx.interop.hub import Hub
from madx.interop.plain import export_plain
from madx.interop.report import ImportReport

__all__ = [
    "Hub",
    "ImportReport",
    "export_adapterhub",
    "export_adapterhub_setup",
    "export_plain",
    "import_adapterhub",
    "import_adapterhub_setup",
]
