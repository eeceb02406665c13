"""Tiny random bases of every family, a tiny tokenizer and modules of random weights, made in milliseconds, offline."""

from functools import lru_cache

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

from madx.base import Base
from madx.contract.module_type import MODULE_TYPES, FusionType
from madx.module import new_module
from madx.module.components import components_of

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = (
    "the a of in from to for with and is was said works lives city river market teacher Anna Juma Maria Omar".split()
)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,!?'-0123456789äöüßéñõẹọṣ"
VOCABULARY = 140

SHAPES = {
    "bert": {"num_attention_heads": 4, "intermediate_size": 64},
    "roberta": {"num_attention_heads": 4, "intermediate_size": 64, "type_vocab_size": 1},
    "xlm-roberta": {"num_attention_heads": 4, "intermediate_size": 64, "type_vocab_size": 1},
    "xlm-roberta-xl": {"num_attention_heads": 4, "intermediate_size": 64, "type_vocab_size": 1},
    "electra": {"num_attention_heads": 4, "intermediate_size": 64, "embedding_size": 24},
    "deberta-v2": {
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "relative_attention": True,
        "position_buckets": 8,
        "pos_att_type": ["p2c", "c2p"],
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
        "max_relative_positions": -1,
    },
    "rembert": {
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "input_embedding_size": 24,
        "output_embedding_size": 40,
    },
    "distilbert": {"n_heads": 4, "hidden_dim": 64, "dim": 32, "n_layers": 3},
    "modernbert": {
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "global_attn_every_n_layers": 2,
        "local_attention": 8,
    },
}
FAMILY_NAMES = list(SHAPES)


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Words of a short list, all other words by letters."""
    pieces = (
        [(s, 0.0) for s in SPECIAL] + [("▁" + w, -2.0) for w in WORDS] + [("▁", -4.0)] + [(c, -6.0) for c in LETTERS]
    )
    core = Tokenizer(models.Unigram(pieces, unk_id=3))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=62,
    )


def config(family: str, **changes):
    """The config of a tiny base: 3 layers, width 32; weights large enough that every path matters."""
    common = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 66,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "cls_token_id": 0,
        "sep_token_id": 2,
        "initializer_range": 0.15,
    }
    if family != "distilbert":
        common |= {"hidden_size": 32, "num_hidden_layers": 3}
    return AutoConfig.for_model(family, **(common | SHAPES[family] | changes))


def model(family: str = "xlm-roberta", *, seed: int = 0, **changes):
    """A tiny random masked-LM model."""
    torch.manual_seed(seed)
    return AutoModelForMaskedLM.from_config(config(family, **changes))


def base(family: str = "xlm-roberta", *, seed: int = 0, **changes) -> Base:
    """A tiny random base, named `tiny-<family>`."""
    return Base(model(family, seed=seed, **changes), tokenizer(), name=f"tiny-{family}")


def fixed_base() -> Base:
    """A tiny XLM-R whose encoder has the same weights on every version of transformers, for stored expectations."""
    made = model().eval()
    wake(made.base_model)
    return Base(made, tokenizer(), name="tiny-xlm-roberta")


def inputs(rows: int = 3, tokens: int = 10, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids `(rows, tokens)` with right padding of unequal length, and their attention mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY, (rows, tokens), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, tokens - 2 * row :] = 0
    ids[mask == 0] = 1
    return ids, mask


def role_of(components) -> str:
    """The role of a module with these components: fusion types have one of their own."""
    kinds = map(MODULE_TYPES.get, components_of(components))
    return "fusion" if any(issubclass(kind, FusionType) for kind in kinds) else "language"


def wake(module, *, seed: int = 0, std: float = 0.3):
    """Random weights large enough that every tensor of the module changes the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(module.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    return module


def sparse(base, name, seed=0, *, entries=400, std=0.3, **more):
    """A module of random entries; those of different seeds overlap by chance."""
    config = {k: more.pop(k) for k in ("groups", "kinds", "top_layers") if k in more}
    made = new_module(name, base, components={"sparse_diff": {"entries": entries, **config}}, **more)
    unit = made.units["weights"]["sparse_diff"]
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(unit.space.size, generator=generator)[: len(unit.indices)].sort().values
    unit.set_entries(places, torch.randn(len(places), generator=generator) * std)
    return made


def scatter(unit) -> dict[str, torch.Tensor]:
    """Return the weight delta of a `sparse_diff` unit as full tensors: name -> tensor."""
    flat = torch.zeros(unit.space.size)
    flat[unit.indices.long()] = unit.values.detach()
    parts = flat.split([p.numel for p in unit.space.parameters])
    return {p.name: part.view(p.shape) for p, part in zip(unit.space.parameters, parts)}


def dense(made) -> dict[str, torch.Tensor]:
    """Return the weight delta of a module with `sparse_diff` as full tensors: name -> tensor."""
    return scatter(made.units["weights"]["sparse_diff"])


def snapshot(base) -> dict[str, torch.Tensor]:
    """A copy of all weights of the base's model."""
    return {k: v.clone() for k, v in base.model.state_dict().items()}


def unchanged(base, state) -> bool:
    """Return true if all weights equal those of a snapshot exactly."""
    return all(torch.equal(v, state[k]) for k, v in base.model.state_dict().items())
