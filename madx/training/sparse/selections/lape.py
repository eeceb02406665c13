"""LAPE (Tang et al. 2024, arXiv:2402.16438): the feed-forward nodes that respond to the module's language.

Text of several languages runs through the base. With p_k the share of a node's activations that are above 0 on text of
language k, over n languages and for the module's language l:

    H = - sum q_k log q_k,   q_k = p_k / sum p       the node's language activation probability entropy
    score = 1 - H / log n                            of nodes with p_l above the quantile `lape_quantile` of all p,
                                                     plus 1, so that they come first; of the others times p_l

A node's score is that of its row of `up`, of its bias and of its column of `down`; all other weights score 0. In a
gated block (ModernBERT) the gate decides, and both rows belong to the node. Settings: train.sparse.lape_texts, with a
source of text for each language, the module's among them; lape_tokens; lape_quantile.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from madx.contract.sites import BaseParameter
from madx.data.text.corpora import read_corpus
from madx.engine import Engine
from madx.errors import ConfigError, TrainingError
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.base import Task
from madx.training.sparse.selections.base import SELECTIONS, Importance, Selection
from madx.training.trainable import Trainee

ROWS = 16  # texts of a forward pass


@SELECTIONS.register("lape")
class Lape(Selection):
    """Scores the weights of a feed-forward node by how much it is one of the module's language."""

    def importance(
        self, trainee: Trainee[SparseDiff], task: Task, *, seed: int
    ) -> Callable[[BaseParameter], Importance]:
        texts, own = self.settings.lape_texts, trainee.module.info.language
        if len(texts) < 2 or own not in texts:
            raise ConfigError(
                f"The selection lape compares languages: train.sparse.lape_texts has {', '.join(texts) or 'none'}, and "
                f"the language of the module is {own}. Give a text for it and for at least one other language."
            )
        shares = [activation_shares(trainee.engine, t, tokens=self.settings.lape_tokens) for t in texts.values()]
        scores = node_scores(torch.stack(shares), list(texts).index(own), quantile=self.settings.lape_quantile)
        _require_enough(trainee.unit, scores)
        encoder = trainee.engine.base.encoder
        return lambda p: Importance(p, encoder.get_parameter(p.name).detach(), squares=_of_weights(p, scores))

    def scores(self, importance: Importance, first: int, last: int) -> Tensor:
        return importance.fisher(first, last)


@torch.no_grad()
def activation_shares(engine: Engine, source: str, *, tokens: int) -> Tensor:
    """The share of activations above 0 of each feed-forward node on the first `tokens` tokens of a text, `(layers, f)`.

    The engine's composition is active. Raises DataError for a source that cannot be read.
    """
    base, counts, seen = engine.base, [0.0] * engine.base.depth, 0
    texts: Iterator[str] = read_corpus(source)
    base.model.eval()
    with _counting(engine, counts) as masks:
        while seen < tokens and (some := [text for _, text in zip(range(ROWS), texts)]):
            batch = base.tokenizer(some, return_tensors="pt", padding=True, truncation=True, max_length=_length(base))
            masks[:] = [batch["attention_mask"].bool().to(base.device)]
            engine(batch["input_ids"].to(base.device), batch["attention_mask"].to(base.device))
            seen += int(batch["attention_mask"].sum())
    return torch.stack([torch.as_tensor(count) for count in counts]).float().cpu() / seen


@contextmanager
def _counting(engine: Engine, counts: list[Any]) -> Iterator[list[Tensor]]:
    """Add the number of activations above 0 of each layer's nodes to `counts`; gives the list for the current mask."""
    base, handles = engine.base, []
    masks: list[Tensor] = []
    layers: Any = base.encoder.get_submodule(base.family.layers)

    def counter(layer: int, width: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Tensor) -> None:
            (mask,) = masks
            real = output[:, -mask.shape[1] :, :width][mask] if output.dim() == 3 else output[:, :width]
            counts[layer] = counts[layer] + (real > 0).sum(0)

        return hook

    try:
        for number, layer in enumerate(layers):
            up = layer.get_submodule(base.family.maps["ffn.up"].path)
            width = layer.get_submodule(base.family.maps["ffn.down"].path).in_features
            handles.append(up.register_forward_hook(counter(number, width)))
        yield masks
    finally:
        for handle in handles:
            handle.remove()


def _length(base: Any) -> int:
    return min(128, base.tokenizer.model_max_length)


def node_scores(shares: Tensor, own: int, *, quantile: float) -> Tensor:
    """Scores `(layers, f)` >= 0 of the nodes, from p `(languages, layers, f)`; own: the number of the language l.

    >>> node_scores(torch.tensor([[[0.8, 0.5, 0.0]], [[0.0, 0.5, 0.0]]]), 0, quantile=0.7)
    tensor([[2., 0., 0.]])
    """
    total = shares.sum(0)
    q = shares / total.clamp_min(torch.finfo(shares.dtype).tiny)
    entropy = -torch.special.xlogy(q, q).sum(0)
    specific = (1 - entropy / math.log(len(shares))).clamp(0, 1).masked_fill(total == 0, 0.0)
    specific = torch.where(specific < 1e-6, 0.0, specific)  # rounding of equal shares
    border = float(shares.flatten().sort().values[min(int(quantile * shares.numel()), shares.numel() - 1)])
    first = (shares[own] >= border) & (specific > 0)
    return torch.where(first, 1 + specific, shares[own] * specific)


def _of_weights(parameter: BaseParameter, scores: Tensor) -> Tensor:
    """The scores of the nodes that a parameter's weights belong to, in its shape; 0 outside feed-forward maps."""
    shape = parameter.shape
    if parameter.layer is None or parameter.map not in ("ffn.up", "ffn.down"):
        return torch.zeros(shape)
    nodes = scores[parameter.layer]
    if parameter.map == "ffn.down":
        return nodes.expand(shape) if parameter.kind == "weight" else torch.zeros(shape)
    rows = nodes.repeat(shape[0] // len(nodes))  # a gated block has two rows for each node
    return rows if parameter.kind == "bias" else rows[:, None].expand(shape)


def _require_enough(unit: SparseDiff, scores: Tensor) -> None:
    """Raises TrainingError where more entries are wanted than weights respond to the language."""
    found = sum(int((_of_weights(p, scores) > 0).sum()) for p in unit.space.parameters)
    if (wanted := unit.config.count(unit.site)) > found:
        raise TrainingError(
            f"lape finds {found:,} selectable weights of nodes that respond to the language more than to others, but "
            f"{wanted:,} entries are wanted. Ask for fewer in sparse_diff.entries, or give texts that differ more."
        )
