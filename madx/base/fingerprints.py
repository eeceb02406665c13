"""Fingerprints: hashes of a base and of its tokenizer, by which a stored module is compared with them."""

import hashlib
import json
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

#: The number of values, evenly spaced, that are hashed of each tensor: training changes nearly all values of a tensor.
VALUES = 4096
SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_known: WeakKeyDictionary[Any, tuple[int, str]] = WeakKeyDictionary()


def base_fingerprint(encoder: nn.Module) -> str:
    """Hash name, shape and evenly spaced values (as float32) of every encoder parameter except the pooler's, by sha256.

    At most 4096 values of a tensor are read, which takes milliseconds on XLM-R base. `load_base` computes it before it
    converts the weights to half precision.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.named_parameters()):
        if name.startswith("pooler."):  # absent from masked-LM models, random in others
            continue
        flat = tensor.detach().reshape(-1)
        if flat.numel() > VALUES:
            flat = flat[torch.linspace(0, flat.numel() - 1, VALUES, dtype=torch.float64).long()]
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(flat.to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hash the vocabulary, sorted by id, and the ids of the special tokens, by sha256.

    The result does not depend on the class of the tokenizer, its folder or the version of transformers. It is cached
    for as long as the tokenizer object lives and its number of tokens stays the same.
    """
    size = len(tokenizer)
    if (known := _known.get(tokenizer)) and known[0] == size:
        return known[1]
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    special = [[name, getattr(tokenizer, f"{name}_token_id", None)] for name in SPECIAL]
    digest = hashlib.sha256(json.dumps([vocabulary, special]).encode()).hexdigest()
    _known[tokenizer] = (size, digest)
    return digest
