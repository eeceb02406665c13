"""The peer's side of the measurements: AdapterHub's `adapters`, with the weights of our modules.

The peer's model shares the tensors of our base; modules go over by our own export, so that both sides compute the same
numbers and a difference in loss is a fault of the measurement.
"""

import logging
import tempfile
import warnings
from pathlib import Path

import torch
from common import LABELS

logging.getLogger("adapters").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="adapters")


class Peer:
    """An `adapters` model with the heads `mlm` and `ner` over the base's weights."""

    def __init__(self, base, *, heads: tuple[str, ...]):
        from adapters import XLMRobertaAdapterModel

        with torch.device("meta"):
            self.model = XLMRobertaAdapterModel(base.config)
        self.model.roberta.load_state_dict(dict(base.encoder.state_dict()), strict=False, assign=True)
        embeddings = self.model.roberta.embeddings
        for name, fresh in (
            ("position_ids", torch.arange(base.config.max_position_embeddings)[None]),
            ("token_type_ids", torch.zeros(1, base.config.max_position_embeddings, dtype=torch.long)),
        ):
            embeddings.register_buffer(name, fresh, persistent=False)
        torch.nn.init.zeros_(self.model.roberta.pooler.to_empty(device="cpu").dense.weight)  # runs, and nobody reads it
        torch.nn.init.zeros_(self.model.roberta.pooler.dense.bias)
        if "mlm" in heads:
            self.model.add_masked_lm_head("mlm", layers=2, activation_function="gelu")
            ours = base.model.lm_head
            head = self.model.heads["mlm"]
            linear = [m for m in head.modules() if isinstance(m, torch.nn.Linear)]
            norm = next(m for m in head.modules() if isinstance(m, torch.nn.LayerNorm))
            linear[0].load_state_dict(ours.dense.state_dict(), assign=True)
            norm.load_state_dict(ours.layer_norm.state_dict(), assign=True)
            norm.eps = ours.layer_norm.eps
            linear[-1].weight, linear[-1].bias = ours.decoder.weight, ours.decoder.bias
        if "ner" in heads:
            self.model.add_tagging_head("ner", num_labels=len(LABELS))
        self.model.eval()

    def take(self, module, base) -> None:
        """A module of ours, by its export; a task module brings its head."""
        from madx.interop import export_adapterhub

        with tempfile.TemporaryDirectory() as folder:
            export_adapterhub(module, Path(folder) / module.name, base=base)
            self.model.load_adapter(str(Path(folder) / module.name), load_as=module.name, with_head=False)
        if module.head is not None:
            linear = [m for m in self.model.heads["ner"].modules() if isinstance(m, torch.nn.Linear)][-1]
            linear.load_state_dict({k: v.clone() for k, v in module.head.state_dict().items()})

    def train(self, name: str, under: str | None, head: str) -> list[torch.nn.Parameter]:
        """Open a module for training; its parameters, the head's among them for a task."""
        from adapters.composition import Stack

        self.model.train_adapter(name)
        if under is not None:
            self.model.active_adapters = Stack(under, name)
        self.model.active_head = head
        self.model.eval()  # no dropout, as in our runs
        for parameter in self.model.heads["mlm"].parameters() if head == "mlm" else ():
            parameter.requires_grad_(False)
        return [p for p in self.model.parameters() if p.requires_grad]

    def activate(self, names: list, head: str | None = None) -> None:
        """A stack; an inner list is an average."""
        from adapters.composition import Average, Stack

        self.model.set_active_adapters(
            Stack(*[Average(*n) if isinstance(n, list) else n for n in names]) if names else None
        )
        if head is not None:
            self.model.active_head = head

    def mlm_loss(self, ids, labels) -> torch.Tensor:
        """Mean loss over the masked positions; the head runs at all positions, as the library does."""
        return self.model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels)[0]

    def logits(self, ids, mask) -> torch.Tensor:
        """Scores of the active head at all positions."""
        return self.model(input_ids=ids, attention_mask=mask)[0]

    def hidden(self, ids, mask) -> torch.Tensor:
        """The last layer's output."""
        return self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
