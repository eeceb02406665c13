"""One engine used by many threads gives the answers of one thread after the other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny
import torch
from tiny_files import fill

from madx.base import load_base
from madx.engine import Engine
from madx.jobs import Predictor
from madx.module import new_module
from madx.store import Store

STACKS = ("swa + ner", "yor + ner", "ner", "base", "prefix + ner", "average(swa, yor) + ner")
WITH_DELTAS = (*STACKS, "delta + ner", "0.5*delta + swa + ner")


@pytest.fixture
def engine() -> Engine:
    made = Engine(tiny.base())
    for number, (name, components) in enumerate({"swa": "madx", "yor": "madx", "prefix": "prefix_flat"}.items()):
        settings = {"prefix": {"length": 3, "flat": True}} if components == "prefix_flat" else components
        made.attach(tiny.wake(new_module(name, made.base, components=settings), seed=number, std=0.2))
    labels = ("O", "B-PER", "B-LOC")
    made.attach(tiny.wake(new_module("ner", made.base, role="task", components="pfeiffer", labels=labels), seed=9))
    return made


def answer(engine: Engine, stack: str, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), engine.using(stack):
        hidden = engine(ids, mask)
        return hidden if stack == "base" else engine.label_logits(hidden)


def mixed(engine: Engine, stacks: tuple[str, ...], *, requests: int, threads: int) -> list[int]:
    """Numbers of the requests whose answer differs from that of one thread alone."""
    inputs = [tiny.inputs(2, 8, seed=k) for k in range(5)]
    expected = {(s, k): answer(engine, s, *inputs[k]) for s in stacks for k in range(5)}
    wrong, start = [], threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait()
        for request in range(number, requests, threads):
            key = stacks[request % len(stacks)], request // len(stacks) % 5
            if not torch.allclose(answer(engine, key[0], *inputs[key[1]]), expected[key], atol=1e-5):
                wrong.append(request)

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, number) for number in range(threads)]:
            done.result()
    return wrong


@pytest.mark.slow
def test_a_thousand_requests_in_64_threads(engine):
    assert mixed(engine, STACKS, requests=1000, threads=64) == []


@pytest.mark.slow
def test_weight_deltas_take_turns(engine):
    engine.attach(tiny.sparse(engine.base, "delta"))
    before = tiny.snapshot(engine.base)
    assert mixed(engine, WITH_DELTAS, requests=240, threads=8) == []
    engine.activate(None)
    assert tiny.unchanged(engine.base, before)


def test_an_activation_holds_for_its_own_thread(engine):
    ids, mask = tiny.inputs()
    expected = {stack: answer(engine, stack, ids, mask) for stack in ("swa + ner", "yor + ner")}
    engine.activate("swa + ner")
    seen = {}

    def other() -> None:
        seen["before"] = str(engine.composition)  # a thread that activated nothing sees what holds elsewhere
        engine.activate("yor + ner")
        with torch.no_grad():
            seen["after"] = engine.label_logits(engine(ids, mask))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen["before"] == "swa + ner" and torch.allclose(seen["after"], expected["yor + ner"], atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(engine.label_logits(engine(ids, mask)), expected["swa + ner"], atol=1e-5)


def test_routes_in_threads(engine):
    ids, mask = tiny.inputs(4)
    engine.activate("route(swa + ner, yor + ner, prefix + ner)")
    orders = [[0, 1, 2, 0], [2, 2, 0, 1], [1, 0, 1, 0], [0, 0, 0, 0]]

    def scores(order: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return engine.label_logits(engine(ids, mask, branches=order), branches=order)

    expected = [scores(order) for order in orders]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda k: scores(orders[k % 4]), range(80)))
    assert all(torch.allclose(each, expected[k % 4], atol=1e-5) for k, each in enumerate(found))


@pytest.mark.slow
@pytest.mark.parametrize("languages", [None, {"swa": "swa", "eng": "base"}])
def test_one_predictor_in_threads(tmp_path, languages):
    """The case of a server: many requests at once to one loaded stack, or to one route over languages."""
    fill(tmp_path)
    base = load_base(tmp_path / "base")
    store = Store(tmp_path / "modules")
    store.save(tiny.wake(new_module("swa", base, language="swa", components="madx"), seed=1, std=0.2))
    labels = ("O", "B-PER", "B-LOC")
    ner = new_module("ner", base, role="task", task="ner", language="eng", components="pfeiffer", labels=labels)
    store.save(tiny.wake(ner, seed=2, std=0.3))
    stack = "ner" if languages else "swa + ner"
    predictor = Predictor(stack, languages=languages, store=str(store.root), base=str(tmp_path / "base"), device="cpu")
    chance = torch.Generator().manual_seed(0)
    texts = [" ".join(tiny.WORDS[k] for k in torch.randint(len(tiny.WORDS), (6,), generator=chance)) for _ in range(60)]
    lines = [(("swa", "eng")[k % 2], text) for k, text in enumerate(texts)] if languages else texts

    def one(line) -> tuple[str, ...]:
        return next(iter(predictor([line]))).tags

    expected = [one(line) for line in lines]
    assert len({tag for tags in expected for tag in tags}) > 1
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, lines * 3)) == expected * 3
