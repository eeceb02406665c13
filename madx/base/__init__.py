"""The base: a frozen pretrained encoder with its tokenizer, and its sites as data."""

from madx.base.model import Base, load_base, load_tokenizer

__all__ = [
    "Base",
    "load_base",
    "load_tokenizer",
]
