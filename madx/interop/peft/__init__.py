"""Folders of Hugging Face's PEFT."""

from madx.interop.peft.exporting import export_peft
from madx.interop.peft.format import Peft
from madx.interop.peft.importing import import_peft

__all__ = ["Peft", "export_peft", "import_peft"]
