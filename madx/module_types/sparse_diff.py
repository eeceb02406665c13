"""Sparse weight delta: theta = theta_0 + delta, where delta is zero except at K entries of the base's parameters.

The K entries are one set over all selectable parameters of the encoder. Training selects them (`madx.training.sparse`):
LT-SFT, the lottery ticket sparse fine-tuning of Ansell et al. 2022 (arXiv:2110.07560), and its relatives. Weight deltas
add up: theta = theta_0 + delta_language + delta_task.

K follows that paper, which matches it to MAD-X. With L layers of width d:

    language   L * 2 * d * d/2 + d^2     a bottleneck of reduction 2 in each layer, and an invertible component
    task       L * 2 * d * d             a bottleneck of reduction 1 in each layer

These are 7,667,712 and 14,155,776 entries on XLM-R base (12 layers, width 768). With `entries: all` nothing is
selected, and the delta is that of ordinary fine-tuning: of all weights, of the upper layers, or of the biases alone
(BitFit, Ben Zaken et al. 2022, arXiv:2106.10199).
"""

import hashlib
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from madx.contract import index_coding
from madx.contract.module_type import MODULE_TYPES, ComponentConfig, Delta, WeightsType
from madx.contract.sites import BaseParameter, Site
from madx.errors import ConfigError, StoreError

PRESETS: dict[str, tuple[dict[str, Any], str]] = {
    "lt_sft": (
        {"entries": "language"},
        "LT-SFT language module: a sparse weight delta as large as a MAD-X module (Ansell et al. 2022)",
    ),
    "lt_sft_task": ({"entries": "task"}, "LT-SFT task module (Ansell et al. 2022)"),
    "bitfit": (
        {"entries": "all", "kinds": ["bias"]},
        "all biases of the base but those of layer norms (Ben Zaken et al. 2022)",
    ),
    "full": (
        {"entries": "all", "freeze_norms": False},
        "every weight of the encoder: full fine-tuning as a baseline",
    ),
    "top_layers": (
        {"entries": "all", "freeze_norms": False, "groups": ["layers"], "top_layers": 2},
        "every weight of the last two layers: fine-tuning of the upper layers as a baseline",
    ),
}

#: from this many selectable weights on, an index needs 8 bytes
INT32 = 2**31


class SparseDiffConfig(ComponentConfig):
    """Settings of a sparse weight delta; the defaults are LT-SFT's for a language."""

    entries: int | float | Literal["language", "task", "all"] = Field(
        default="language",
        description="K: a count, a share of the selectable weights (0.03), 'all', or the paper's 'language' or 'task'.",
    )
    groups: tuple[Literal["embeddings", "layers", "other"], ...] = Field(
        default=("embeddings", "layers", "other"),
        min_length=1,
        strict=False,
        description="Groups of parameters where entries may lie.",
    )
    kinds: tuple[Literal["weight", "bias"], ...] = Field(
        default=("weight", "bias"),
        min_length=1,
        strict=False,
        description="Entries in weights, in biases (BitFit), or both.",
    )
    freeze_norms: bool = Field(default=True, description="No entries in layer norms.")
    top_layers: int | None = Field(
        default=None, ge=1, description="Entries in the last n layers alone; null: everywhere."
    )
    precision: Literal["float16", "float32"] = Field(
        default="float16",
        description="Number format that values are rounded to after training; float16 is stored in 3 bytes an entry.",
    )

    @field_validator("entries")
    @classmethod
    def _entries(cls, value: int | float | str) -> int | float | str:
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError(
                f"{value} is not a share: a share is above 0 and at most 1 (a count is written without a decimal point)"
            )
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{value} entries: at least 1 is needed")
        return value

    def selectable(self, site: Site) -> tuple[BaseParameter, ...]:
        """The parameters where entries may lie. Raises ConfigError when there are none."""
        layers = self.layers(site.depth)
        if self.top_layers is not None:
            layers &= set(range(site.depth)[-self.top_layers :])

        def chosen(p: BaseParameter) -> bool:
            of_kind = p.kind in self.kinds or p.kind == "norm" and not self.freeze_norms
            inside = p.layer in layers if p.group == "layers" else self.top_layers is None
            return of_kind and inside and p.group in self.groups

        found = tuple(p for p in site.parameters if chosen(p))
        if not found:
            raise ConfigError(f"No parameter of the base is selectable with {self!r}: widen groups, kinds or layers.")
        return found

    def count(self, site: Site) -> int:
        """K on this base. Raises ConfigError when the selectable parameters have fewer entries."""
        size = sum(p.numel for p in self.selectable(site))
        d, depth = site.width, site.depth
        if isinstance(self.entries, float):
            return max(1, round(self.entries * size))
        named = {"all": size, "language": depth * d * d + d * d, "task": depth * 2 * d * d}
        wanted = named[self.entries] if isinstance(self.entries, str) else self.entries
        if wanted > size:
            raise ConfigError(
                f"sparse_diff.entries asks for {wanted:,} entries, but the selectable parameters of this base have "
                f"{size:,}: give a smaller count, a share such as 0.03, or widen groups, kinds and layers."
            )
        return wanted


class Space:
    """The selectable parameters, laid one after the other. A global index is an index into their concatenation.

    Attributes:
        parameters: the selectable parameters in their order.
        offsets: the global index of the first entry of each parameter, and `size` as the last number.
        size: the number of selectable weights.
        dtype: int32, or int64 where an index needs it.
    """

    def __init__(self, parameters: tuple[BaseParameter, ...]):
        self.parameters = parameters
        self.offsets = [0]
        for parameter in parameters:
            self.offsets.append(self.offsets[-1] + parameter.numel)
        self.size = self.offsets[-1]
        self.dtype = torch.int32 if self.size < INT32 else torch.int64

    def digest(self) -> Tensor:
        """32 bytes that identify names, shapes and order of the parameters."""
        text = "\n".join(f"{p.name}{tuple(p.shape)}" for p in self.parameters)
        return torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8)

    def split(self, indices: Tensor) -> list[tuple[str, int, int, int]]:
        """Cut ascending global indices `(entries,)` by parameter: (name, first entry, entry after the last, offset of
        the parameter), for each parameter that has entries.

        >>> a = BaseParameter("a", (2, 3), "layers", 0, "weight")
        >>> b = BaseParameter("b", (4,), "layers", 0, "bias")
        >>> Space((a, b)).split(torch.tensor([0, 5, 7]))
        [('a', 0, 2, 0), ('b', 2, 3, 6)]
        """
        borders = torch.tensor(self.offsets, dtype=indices.dtype, device=indices.device)
        cuts = torch.searchsorted(indices, borders).tolist()
        return [
            (p.name, cuts[k], cuts[k + 1], self.offsets[k])
            for k, p in enumerate(self.parameters)
            if cuts[k] < cuts[k + 1]
        ]


@MODULE_TYPES.register("sparse_diff")
class SparseDiff(WeightsType):
    """K entries: `indices` `(K,)`, ascending and global over the selectable parameters; `values` `(K,)` in float32.

    A fresh unit has evenly spaced indices and values of zero, so it changes nothing.
    """

    Config = SparseDiffConfig
    config: SparseDiffConfig
    packed = True
    indices: Tensor

    def __init__(self, config: SparseDiffConfig, site: Site):
        super().__init__(config, site)
        self.space = Space(config.selectable(site))
        count = config.count(site)
        spread = torch.arange(count, dtype=torch.int64).mul_(self.space.size).div_(count, rounding_mode="floor")
        self.register_buffer("indices", spread.to(self.space.dtype))
        self.values = nn.Parameter(torch.zeros(count))

    def set_entries(self, indices: Tensor, values: Tensor) -> None:
        """Replace all entries: global indices `(entries,)` and their values `(entries,)`.

        Raises ValueError for indices that are unsorted, repeated or out of range, and for values that are not finite or
        not as many as the indices.
        """
        if fault := self._fault(indices, values):
            raise ValueError(fault)
        device = self.values.device
        self.indices = indices.to(device, self.space.dtype)
        self.values = nn.Parameter(values.detach().to(device, torch.float32), requires_grad=self.values.requires_grad)

    def _fault(self, indices: Tensor, values: Tensor) -> str | None:
        if indices.dim() != 1 or indices.shape != values.shape:
            return f"{tuple(indices.shape)} indices and {tuple(values.shape)} values: each index needs one value"
        if indices.numel() and not bool((indices[1:] > indices[:-1]).all()):
            return "the indices are unsorted, or one is repeated"
        return self._range_fault(indices, values)

    def _range_fault(self, indices: Tensor, values: Tensor) -> str | None:
        """The other faults of `_fault`, for indices that are known to be ascending."""
        if indices.numel() and (int(indices[0]) < 0 or int(indices[-1]) >= self.space.size):
            bad = int(indices[-1]) if int(indices[-1]) >= self.space.size else int(indices[0])
            return f"the index {bad} is out of range: the selectable parameters have {self.space.size} entries"
        if not bool(values.sum(dtype=torch.float64).isfinite()):
            return "a value is infinite or not a number"
        return None

    def deltas(self) -> list[Delta]:
        values = self.values.detach()
        return [
            Delta(name, values[a:b], self.indices[a:b], offset) for name, a, b, offset in self.space.split(self.indices)
        ]

    def state(self) -> list[Tensor]:
        return [self.indices, self.values]

    def touches(self) -> list[str]:
        return [name for name, *_ in self.space.split(self.indices)]

    @torch.no_grad()
    def pull(self, parameter: str, gradient: Tensor) -> None:
        """Add the gradient of one parameter, at the entries in it, to that of the values. The contract's default would
        do it too, but it would go through all parameters for each one."""
        for name, a, b, offset in self.space.split(self.indices):
            if name == parameter:
                if self.values.grad is None:
                    self.values.grad = torch.zeros_like(self.values)
                self.values.grad[a:b] += gradient.reshape(-1)[self.indices[a:b].long() - offset]

    def describe(self) -> str:
        touched = len(self.space.split(self.indices))
        return f"{len(self.indices):,} of {self.space.size:,} entries in {touched} parameters"

    @torch.no_grad()
    def round_values(self) -> None:
        """Round the values to `config.precision`, as they will be stored."""
        if self.config.precision == "float16":
            exponent = _exponent(self.values)
            self.values.copy_(_from_half(_to_half(self.values, exponent), exponent))

    # ---- the stored form -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def pack(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """The stored form.

        gaps: the delta-encoded indices as bytes (`madx.contract.index_coding`); values: in float16 after division by
        2^exponent, where that loses nothing or `dtype` is float16, else in `dtype`; parameters: the digest of `Space`.
        """
        values = self.values.detach().cpu()
        exponent = _exponent(values)
        half = _to_half(values, exponent)
        if dtype != torch.float16 and not torch.equal(_from_half(half, exponent), values):
            half, exponent = values.to(dtype), 0
        return {
            "gaps": index_coding.encode(self.indices.cpu()),
            "values": half,
            "exponent": torch.tensor([exponent], dtype=torch.int8),
            "parameters": self.space.digest(),
        }

    def unpack(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        if faults := self.stored_faults(stored):
            raise StoreError("; ".join(faults))
        if not torch.equal(stored["parameters"], self.space.digest()):
            raise StoreError(
                "its entries lie in parameters of other names or shapes than the selectable ones of this base"
            )
        indices, values = index_coding.decode(stored["gaps"]), _from_half(stored["values"], int(stored["exponent"]))
        if fault := self._range_fault(indices, values):
            raise StoreError(fault)
        if len(indices) != len(self.indices):
            raise StoreError(f"it holds {len(indices):,} entries, but its settings ask for {len(self.indices):,}")
        return {"indices": indices.to(self.space.dtype), "values": values}

    @classmethod
    def stored_faults(cls, stored: dict[str, Tensor]) -> list[str]:
        wanted = {"gaps": torch.uint8, "values": None, "exponent": torch.int8, "parameters": torch.uint8}
        if stored.keys() != wanted.keys():
            return [
                f"a sparse weight delta is stored as {', '.join(wanted)}, "
                f"not as {', '.join(sorted(stored)) or 'nothing'}"
            ]
        faults = [
            f"{n} is {stored[n].dtype}, not {t}" for n, t in wanted.items() if t is not None and stored[n].dtype != t
        ]
        if not stored["values"].is_floating_point() or stored["values"].dim() != 1 or stored["exponent"].shape != (1,):
            faults.append("values must be one row of floating-point numbers, and exponent one number")
        if faults:
            return faults
        gap = stored["gaps"]
        if gap.dim() != 1 or index_coding.ends_within_an_entry(gap):
            return ["the gaps end within an entry: the file was cut"]
        entries = index_coding.entries(gap)
        return [f"{entries} indices, but {len(stored['values'])} values"] if entries != len(stored["values"]) else []


def _exponent(values: Tensor) -> int:
    """The power of two by which values are divided before they become float16. The largest then lies at 2^14, so that
    nothing overflows, and small values keep their 11 significant bits down to 2^-28 of the largest."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    return max(-126, int(torch.frexp(torch.tensor(largest)).exponent) - 15) if largest else 0


def _to_half(values: Tensor, exponent: int) -> Tensor:
    return (values * 2.0**-exponent).to(torch.float16)


def _from_half(stored: Tensor, exponent: int) -> Tensor:
    values = stored.to(torch.float32, copy=True)
    return values.mul_(2.0**exponent) if exponent else values
