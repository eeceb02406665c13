"""The bottleneck config of AdapterHub's `adapters`: its keys and defaults, its named configs, its old spellings."""

from typing import Annotated, Literal

from pydantic import Field

from madx.config import Settings

Finite = Annotated[float, Field(allow_inf_nan=False)]
Factor = Annotated[float, Field(allow_inf_nan=False, gt=1e-6, lt=1e9)]


class ForeignConfig(Settings):
    """A bottleneck config as `adapters` defines it, with its defaults."""

    mh_adapter: bool
    output_adapter: bool
    reduction_factor: Factor | dict[str, Factor]
    non_linearity: str
    original_ln_before: bool = False
    original_ln_after: bool = True
    ln_before: bool = False
    ln_after: bool = False
    init_weights: Literal["bert", "mam_adapter", "houlsby"] = "bert"
    init_weights_seed: int | None = None
    is_parallel: bool = False
    scaling: Finite | Literal["learned", "channel"] = 1.0
    use_gating: bool = False
    residual_before_ln: bool | Literal["post_add"] = True
    adapter_residual_before_ln: bool = False
    inv_adapter: Literal["nice", "glow"] | None = None
    inv_adapter_reduction_factor: Factor | None = None
    inv_non_linearity: str | None = None  # not theirs: the nested config of version 1 had an activation of its own
    cross_adapter: bool = False
    leave_out: list[int] = Field(default_factory=list)
    dropout: Finite = 0.0
    stochastic_depth: Finite = 0.0


SEQ = {
    "mh_adapter": False,
    "output_adapter": True,
    "reduction_factor": 16,
    "non_linearity": "relu",
    "original_ln_before": True,
    "original_ln_after": True,
    "residual_before_ln": True,
}
DOUBLE = SEQ | {"mh_adapter": True, "original_ln_before": False, "non_linearity": "swish"}
PARALLEL = SEQ | {
    "original_ln_before": False,
    "is_parallel": True,
    "init_weights": "mam_adapter",
    "reduction_factor": 2,
    "scaling": 4.0,
}
NICE = {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2}

#: configs saved by name alone
NAMED: dict[str, dict] = {
    "seq_bn": SEQ,
    "pfeiffer": SEQ,
    "double_seq_bn": DOUBLE,
    "houlsby": DOUBLE,
    "seq_bn_inv": SEQ | NICE,
    "pfeiffer+inv": SEQ | NICE,
    "double_seq_bn_inv": DOUBLE | NICE,
    "houlsby+inv": DOUBLE | NICE,
    "par_bn": PARALLEL,
    "parallel": PARALLEL,
    "scaled_par_bn": PARALLEL | {"scaling": "learned"},
    "scaled_parallel": PARALLEL | {"scaling": "learned"},
}

#: names of configs and architectures whose module type madx does not read yet
OTHER_TYPES = (
    "lora",
    "mtl_lora",
    "ia3",
    "vera",
    "dora",
    "dvora",
    "prefix_tuning",
    "prefix_tuning_flat",
    "prompt_tuning",
    "reft",
    "loreft",
    "noreft",
    "direft",
    "compacter",
    "compacter++",
    "mam",
    "unipelt",
    "union",
)

PHM = {
    "phm_layer",
    "phm_dim",
    "factorized_phm_W",
    "shared_W_phm",
    "shared_phm_rule",
    "factorized_phm_rule",
    "phm_c_init",
    "phm_init_range",
    "learn_phm",
    "hypercomplex_nonlinearity",
    "phm_rank",
    "phm_bias",
}
OLD_SPELLING = {
    "LN_before": "ln_before",
    "LN_after": "ln_after",
    "MH_Adapter": "mh_adapter",
    "Output_Adapter": "output_adapter",
}
#: theirs -> ours; theirs are compared in lower case, as they do
ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "swish": "swish",
    "silu": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "leakyrelu": "leaky_relu",
    "leaky_relu": "leaky_relu",
    "mish": "mish",
    "relu6": "relu6",
    "relu2": "relu_squared",
    "linear": "identity",
}
ACTIVATIONS_OUT = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}  # the first name listed wins
INIT = {"bert": "normal", "mam_adapter": "zero_up", "houlsby": "truncated"}
