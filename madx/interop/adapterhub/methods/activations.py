"""Names of activations, both ways."""

from madx.errors import ConfigError, did_you_mean
from madx.interop.adapterhub.methods.method import short

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
#: ours -> theirs; the first name listed is written
ACTIVATIONS_OUT = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}


def activation(name: str) -> str:
    """Our name of an activation. Raises ConfigError for one that madx does not have."""
    if name.lower() not in ACTIVATIONS:
        raise ConfigError(f"The activation {short(name)} is not known here; {did_you_mean(name[:40], ACTIVATIONS)}")
    return ACTIVATIONS[name.lower()]
