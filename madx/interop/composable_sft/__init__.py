"""Sparse fine-tunings of composable-sft."""

from madx.interop.composable_sft.format import export_composable_sft, import_composable_sft

__all__ = [
    "export_composable_sft",
    "import_composable_sft",
]
