"""Tiny engines, tasks and settings for the training of sparse weight deltas."""

from contextlib import contextmanager

import pytest
import tiny
import tiny_runs as runs
import torch
from tiny import sparse

from madx.data.labelled.labels import LabelSet
from madx.engine import Engine
from madx.module import new_module
from madx.training import SparseSettings, TrainSettings
from madx.training.trainable import Trainee

FAMILY = "xlm-roberta"


def settings(**changes):
    """Settings of a short run; those of `train.sparse` are told by their names."""
    own = {k: changes.pop(k) for k in list(changes) if k in SparseSettings.model_fields}
    defaults = {"learning_rate": 1e-2, "progress": False, "warmup": 0.2, "sparse": SparseSettings(**own)}
    return TrainSettings(**(defaults | changes))


def language(entries=300, *, name="swa", family=FAMILY, base=None, **config):
    """(engine, task, unit) for the sparse weight delta of a language."""
    engine = Engine(base or tiny.base(family))
    components = {"sparse_diff": {"entries": entries, "precision": "float32", **config}}
    engine.attach(new_module(name, engine.base, language="swa", components=components))
    engine.activate(name)
    return engine, runs.masked_lm(seed=1), engine.modules[name].units["weights"]["sparse_diff"]


def ner(entries=300, *, under=True):
    """(engine, task, unit) for the sparse weight delta of a task over that of a source language."""
    engine = Engine(tiny.base(FAMILY))
    if under:
        engine.attach(sparse(engine.base, "eng", 5, entries=0.2, std=0.05))
    torch.manual_seed(3)
    labels = LabelSet.from_sentences(runs.sentences()).tags
    components = {"sparse_diff": {"entries": entries, "precision": "float32"}}
    engine.attach(new_module("ner", engine.base, role="task", components=components, labels=labels))
    engine.activate("eng + ner" if under else "ner")
    return engine, runs.ner(seed=1), engine.modules["ner"].units["weights"]["sparse_diff"]


def trainee(engine, name, unit):
    """The value that phases and selections take."""
    return Trainee(engine, name, unit)


def untied_model(family=FAMILY):
    """The frozen model in plain torch, its decoder a copy of the embeddings: it does not move with them."""
    model = tiny.model(family).eval().requires_grad_(False)
    decoder = model.lm_head.decoder
    decoder.weight = torch.nn.Parameter(decoder.weight.detach().clone(), requires_grad=False)
    return model


@contextmanager
def killed_after(kind, count, error=RuntimeError):
    """Within the block the loss of a task class fails once `count` losses were computed; the block must end so."""
    calls, loss = [], kind.loss

    def failing(self, engine, batch):
        calls.append(1)
        if len(calls) > count:
            raise error("killed")
        return loss(self, engine, batch)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        patch.setattr(kind, "loss", failing)
        yield
