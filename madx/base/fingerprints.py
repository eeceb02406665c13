"""Which base was it, and which tokenizer? Hashes that a stored module is compared by."""

import hashlib
import json
from weakref import WeakKeyDictionary

import torch
from torch import nn

#: values hashed of each tensor, evenly spaced; a tensor that was trained differs in nearly all of its values
VALUES = 4096
SPECIAL = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_known: WeakKeyDictionary = WeakKeyDictionary()


def base_fingerprint(encoder: nn.Module) -> str:
    """sha256 over name, shape and evenly spaced values (as float32) of every encoder parameter, the pooler's excluded.

    At most 4096 values of a tensor are read: milliseconds on XLM-R base. It is taken from the weights as they were
    loaded, before any conversion to half precision.
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


def tokenizer_fingerprint(tokenizer) -> str:
    """sha256 over the vocabulary, sorted by id, and the ids of the special tokens.

    It does not depend on the class of the tokenizer, its folder or the version of transformers. It is remembered for
    as long as the tokenizer object lives and its number of tokens stays the same.
    """
    size = len(tokenizer)
    if (known := _known.get(tokenizer)) and known[0] == size:
        return known[1]
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    special = [[name, getattr(tokenizer, f"{name}_token_id", None)] for name in SPECIAL]
    digest = hashlib.sha256(json.dumps([vocabulary, special]).encode()).hexdigest()
    _known[tokenizer] = (size, digest)
    return digest
