"""Sparse fine-tunings of composable-sft."""

from madx.interop.composable_sft.exporting import export_composable_sft
from madx.interop.composable_sft.format import ComposableSft
from madx.interop.composable_sft.importing import import_composable_sft

__all__ = ["ComposableSft", "export_composable_sft", "import_composable_sft"]
