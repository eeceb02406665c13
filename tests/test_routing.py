"""Routes: rows of one batch under different stacks give what separate forward passes give, for every module type."""

import pytest
import tiny
import tiny_runs as runs
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from madx.composition import Route, parse
from madx.engine import Engine
from madx.engine.active import ActiveComposition
from madx.engine.call import Call
from madx.engine.entropy_mixing import EntropyMixing
from madx.engine.routing import RoutePlan
from madx.errors import CompositionError
from madx.interop import export_modules
from madx.module import new_module
from madx.module_types import MODULE_TYPES
from madx.module_types.sparse_diff import SparseDiff
from madx.tasks.token_classification import word_logits
from madx.training import TrainSettings, fit

LABELS = ("O", "B-PER", "I-PER")
HOUSE = {
    "bottleneck": {
        "places": ["attention", "ffn"],
        "reads": "output",
        "residual": "sum",
        "gate": True,
        "reduction_factor": 4,
    }
}


def route_of(*branches):
    """A route from the texts of its branches."""
    return Route(*map(parse, branches))


def module(base, name, components="madx", *, seed=0, labels=()):
    role = "task" if labels else tiny.role_of(components)
    made = tiny.wake(new_module(name, base, role=role, components=components, labels=labels), seed=seed)
    for unit in made.packed_units().values():
        if not isinstance(unit, SparseDiff):
            continue
        generator = torch.Generator().manual_seed(seed)
        places = torch.randperm(unit.space.size, generator=generator)[: len(unit.indices)].sort().values
        unit.set_entries(places, torch.randn(len(places), generator=generator) * 0.1)
    return made


def engine(family="xlm-roberta", labels=LABELS, **modules):
    """Modules by name: their parts; `ner` and `pos...` get a head."""
    made = Engine(tiny.base(family))
    for seed, (name, parts) in enumerate(modules.items()):
        made.attach(module(made.base, name, parts, seed=seed, labels=labels if name.startswith(("ner", "pos")) else ()))
    return made


def everything(made, ids, mask, branches=None, *, scores=("hidden", "masked", "labels")):
    """Hidden states, masked-LM scores and labels of a batch, at tokens that are no padding."""
    hidden = made(ids, mask, branches=branches)
    where = mask.bool()
    of = None if branches is None else torch.as_tensor(branches)[:, None].expand(mask.shape)[where]
    found = [hidden[where]] if "hidden" in scores else []
    found += [made.mlm_logits(hidden[where], branches=of)] if "masked" in scores else []
    return found + ([made.label_logits(hidden, branches=branches)[where]] if "labels" in scores else [])


def apart(made, route, ids, mask, branches, **options):
    """Run each row in its own forward pass, for comparison."""
    rows = []
    for row, number in enumerate(branches):
        with made.using(route.branches[number]):
            rows.append(everything(made, ids[row : row + 1], mask[row : row + 1], **options))
    return [torch.cat(of_rows) for of_rows in zip(*rows)]


@torch.no_grad()
def require_equal(made, route, branches, **options):
    ids, mask = tiny.inputs(len(branches), 16)
    expected = apart(made, route, ids, mask, branches, **options)
    made.activate(route)
    for found, wanted in zip(everything(made, ids, mask, branches, **options), expected, strict=True):
        assert found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-5, rtol=1e-5), (
            (found - wanted).abs().max()
        )
    places = torch.randperm(
        int(mask.sum()), generator=torch.Generator().manual_seed(0)
    )  # some positions alone, in any order
    at = tuple(index[places] for index in mask.nonzero(as_tuple=True))
    assert torch.allclose(made(ids, mask, at=at, branches=branches), expected[0][places], atol=1e-5, rtol=1e-5)


# ---- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["xlm-roberta", "modernbert"])
@pytest.mark.parametrize("kind", MODULE_TYPES.names())
def test_every_module_type_acts_row_by_row(kind, family):
    """A new module type comes in here by its registration."""
    parts = {kind: {"compacter": {"reduction_factor": 4.0}}.get(kind, {})}  # sizes that suit a narrow base
    if tiny.role_of(parts) == "fusion":
        made = engine(family, c="pfeiffer", d="pfeiffer", a=parts, b=parts, ner="pfeiffer")
        route = route_of("fuse(c, d; a) + ner", "fuse(c, d; b) + ner", "ner", "base + ner")
    else:
        made = engine(family, a=parts, b=parts, ner=parts)
        route = route_of("a + ner", "b + ner", "ner", "base + ner")
    require_equal(made, route, [1, 0, 2, 1, 3, 0])
    with torch.no_grad():
        alone = [apart(made, route, *tiny.inputs(1, 16), [k])[0] for k in range(3)]
    assert min((alone[0] - alone[k]).abs().max() for k in (1, 2)) > 1e-3  # the branches do differ


@pytest.mark.parametrize("family", tiny.FAMILY_NAMES)
def test_on_every_family(family):
    made = engine(family, swa="madx", yor=HOUSE, hau="parallel", xho="houlsby_inv", ner="pfeiffer")
    route = route_of(
        "swa + ner", "yor + ner", "average(swa, hau) + ner", "xho + swa + ner", "0.5*yor + ner", "ner + hau"
    )
    require_equal(made, route, [5, 1, 3, 0, 1], scores=("hidden", "masked", "labels"))
    require_equal(
        made, route, [5, 1, 2, 3, 0, 4, 1], scores=("hidden", "labels")
    )  # a mean has no inverse for masked words


STACKS = (
    "base",
    "swa",
    "swa + ner",
    "yor + ner",
    "swa + yor + ner",
    "ner",
    "ner + swa",
    "average(swa, yor) + ner",
    "0.5*swa + ner",
    "average(0.3*(swa + yor), hau)",
    "hau + ner",
    "swa + pos",
    "yor + pos",
    "short + ner",
    "raw + ner",
    "ner + raw",
    "raw",
)


@pytest.fixture(scope="module")
def many():
    """One engine for many routes: modules at all layers and at some, one that leaves the last norm out."""
    return engine(
        swa="pfeiffer",
        yor=HOUSE,
        hau="parallel",
        ner="pfeiffer",
        pos="houlsby",
        short={"bottleneck": {"leave_out": [0, 2]}},
        raw={"bottleneck": {"final_norm": False, "leave_out": [0]}},
    )


@pytest.mark.slow
@given(st.lists(st.sampled_from(STACKS), min_size=1, max_size=6), st.data())
@settings(derandomize=True, max_examples=30, deadline=None)
def test_any_route_equals_separate_passes(many, stacks, data):
    branches = data.draw(st.lists(st.integers(0, len(stacks) - 1), min_size=1, max_size=7))
    require_equal(many, route_of(*stacks), branches, scores=("hidden", "masked"))


def test_two_invertible_parts_in_some_rows_and_none_in_others():
    made = engine(a="madx", b={"invertible": {"kind": "glow"}}, c="pfeiffer", ner="pfeiffer")
    require_equal(made, route_of("a + b + ner", "c + ner", "b + ner", "b + a + ner"), [1, 0, 3, 2, 0, 3, 1])


def test_a_mean_of_invertible_parts_refuses_masked_words_of_its_rows_alone():
    made = engine(a="madx", b="madx")
    made.activate("route(a, average(a, b))")
    with torch.no_grad():
        assert made.mlm_logits(torch.randn(2, 32), branches=[0, 0]).shape == (2, tiny.VOCABULARY)
        with pytest.raises(CompositionError, match="no inverse in closed form"):
            made.mlm_logits(torch.randn(2, 32), branches=[0, 1])


def test_a_sublayer_without_its_last_norm_beside_one_with_it_is_refused_on_a_pre_norm_base():
    made = engine("modernbert", a="pfeiffer", raw={"bottleneck": {"final_norm": False}})
    with pytest.raises(CompositionError, match="pre-norm.*Set final_norm to true"):
        made.activate("route(a, raw)")


# ---- what runs, and how often ----------------------------------------------------------------------------------------


def watched(made, *names):
    """name -> rows that its unit in layer 1 was given, call by call."""
    seen = {name: [] for name in names}
    for name in names:
        unit = made.module(name).units["layer.1.ffn"]["bottleneck"]
        unit.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(len(args[0].sum)))
    return seen


@torch.no_grad()
def test_shared_modules_run_once_for_all_their_rows():
    made = engine(swa="pfeiffer", yor="pfeiffer", ner="pfeiffer", pos="pfeiffer")
    seen = watched(made, "swa", "yor", "ner", "pos")
    ids, mask = tiny.inputs(5)
    made.activate("route(swa + ner, yor + ner, swa + ner)")
    made(ids, mask, branches=[0, 1, 2, 1, 0])
    assert seen == {"swa": [3], "yor": [2], "ner": [5], "pos": []}
    [rows.clear() for rows in seen.values()]
    made.activate("route(swa + ner, swa + pos, yor + ner, yor + pos)")
    made(ids, mask, branches=[3, 0, 2, 1, 2])  # those that end alike lie side by side
    assert seen == {"swa": [1, 1], "yor": [2, 1], "ner": [3], "pos": [2]}
    [rows.clear() for rows in seen.values()]
    made.activate("route(ner + swa, ner + yor)")
    made(ids, mask, branches=[1, 0, 1, 0, 1])
    assert seen == {"swa": [2], "yor": [3], "ner": [5], "pos": []}


@torch.no_grad()
def test_a_batch_of_one_branch_runs_the_plain_plan_and_nothing_is_compiled_twice(monkeypatch):
    made = engine(swa="madx", yor="madx", ner="pfeiffer")
    ids, mask = tiny.inputs(4)
    made.activate("swa + ner")
    plain, alone = made.plan, made(ids, mask)
    made.activate("route(swa + ner, yor + ner)")
    assert made._route.plan((0,)) == plain  # the very same instances in the same order
    assert torch.equal(made(ids, mask, branches=[0] * 4), alone)
    mixed = made(ids, mask, branches=[0, 1, 0, 1])
    made.activate(None)
    monkeypatch.setattr(Engine, "compile", None)
    monkeypatch.setattr("madx.engine.routing.merged", None)
    made.activate("route(swa + ner, yor + ner)")
    assert torch.equal(made(ids, mask, branches=[0, 1, 0, 1]), mixed)
    assert torch.allclose(made(ids, mask, branches=[0, 1, 1, 1])[:2], mixed[:2], atol=1e-5)


def test_only_the_newest_sets_of_branches_are_kept(monkeypatch):
    monkeypatch.setattr("madx.engine.routing.KEPT", 2)
    made = engine(swa="pfeiffer", yor="pfeiffer", hau="pfeiffer")
    made.activate("route(swa, yor, hau)")
    ids, mask = tiny.inputs(2)
    before = made(ids, mask, branches=[0, 1])
    for branches in ([1, 2], [2, 0], [0, 0]):
        made(ids, mask, branches=branches)
    assert len(made._route._merged) == 2 and torch.equal(made(ids, mask, branches=[0, 1]), before)


def test_a_last_layer_that_all_rows_share_is_narrowed():
    made = engine(swa={"bottleneck": {"leave_out": [-1]}}, yor={"bottleneck": {"leave_out": [-1]}}, ner="pfeiffer")
    require_equal(made, route_of("swa + ner", "yor + ner"), [1, 0, 1, 0])
    seen, unit = [], made.module("ner").units["layer.2.ffn"]["bottleneck"]
    unit.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].sum.shape)))
    ids, mask = tiny.inputs(4, 16)
    made(ids, mask, at=(torch.tensor([3, 0, 1]), torch.tensor([2, 5, 0])), branches=[1, 0, 1, 0])
    assert seen == [(1, 3, 32)]


@torch.no_grad()
def test_a_hundred_languages_in_one_batch():
    made = engine(**{f"l{k}": "pfeiffer" for k in range(100)}, ner="pfeiffer")
    route = route_of(*(f"l{k} + ner" for k in range(100)))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0)).tolist()
    made.activate(route)
    ids, _ = tiny.inputs(1, 8)
    hidden = made(ids.repeat(100, 1), branches=order)
    for row in (0, 17, 99):
        with made.using(route.branches[order[row]]):
            assert torch.allclose(made(ids)[0], hidden[row], atol=1e-5)


@torch.no_grad()
def test_branches_by_number_by_text_by_tensor():
    made = engine(swa="madx", yor="madx", ner="pfeiffer")
    made.activate(route_of("swa + ner", "average(swa, yor)", "base"))
    ids, mask = tiny.inputs(3)
    one = made(ids, mask, branches=[2, 0, 1])
    for same in (
        ["base", "swa + ner", "average(swa,yor)"],
        torch.tensor([2, 0, 1]),
        torch.tensor([2, 0, 1], dtype=torch.uint8),
        (2, "swa + ner", 1),
        torch.tensor([2, 0, 1]).numpy(),
    ):
        assert torch.equal(made(ids, mask, branches=same), one)


# ---- labels ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_each_row_is_labelled_by_the_head_of_its_own_task_module():
    made = engine(swa="pfeiffer", **{"ner.1": "pfeiffer", "ner.2": "pfeiffer"})
    require_equal(made, route_of("swa + ner.1", "swa + ner.2", "ner.1"), [1, 0, 2, 1])
    made.attach(module(made.base, "pos", "pfeiffer", labels=("NOUN", "VERB")))
    made.activate("route(swa + ner.1, pos, swa)")
    hidden = made(*tiny.inputs(3), branches=[0, 1, 0])
    assert made.label_logits(hidden[[0, 2]], branches=[0, 0]).shape == (2, 10, 3)
    assert made.label_logits(hidden[1:2], branches=[1]).shape == (1, 10, 2)
    assert made.label_logits(hidden[:0], branches=[]).shape == (0, 10, 2)
    assert made.task_module("swa + ner.1").name == "ner.1"
    with pytest.raises(CompositionError, match="different labels.*ner.1, pos.*label_logits"):
        made.label_logits(hidden, branches=[0, 1, 0])
    with pytest.raises(CompositionError, match="'swa' .* has no head"):
        made.label_logits(hidden, branches=[0, 2, 0])
    with pytest.raises(CompositionError, match="cannot be asked for one task module"):
        made.task_module()


# ---- gradients -------------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_separate_passes():
    made = engine(swa="madx", yor="madx", ner="pfeiffer")
    route, branches = route_of("swa + ner", "yor + ner"), [1, 0, 0, 1, 0]
    ids, mask = tiny.inputs(5, 16)

    def gradients(losses):
        opened = made.train_only("swa", "ner")
        assert {id(p) for p in opened} == {id(p) for n in ("swa", "ner") for p in made.module(n).parameters()}
        for loss in losses():
            loss.backward()
        found = [None if p.grad is None else p.grad.clone() for p in made.module("swa").parameters()]
        found += [p.grad.clone() for p in made.module("ner").parameters()]
        assert all(p.grad is None and not p.requires_grad for p in made.module("yor").parameters())
        assert all(p.grad is None for p in made.base.model.parameters())
        for name in ("swa", "ner"):
            made.module(name).zero_grad(set_to_none=True)
        return found

    def loss(rows, numbers=None):
        hidden = made(ids[rows], mask[rows], branches=numbers)
        picked = hidden[mask[rows].bool()]
        of = None if numbers is None else torch.tensor(numbers)[:, None].expand(mask[rows].shape)[mask[rows].bool()]
        return (
            made.label_logits(picked, branches=of).logsumexp(-1).sum()
            + made.mlm_logits(picked, branches=of).logsumexp(-1).sum()
        )

    def separate():
        for row, number in enumerate(branches):
            with made.using(route.branches[number]):
                yield loss([row])

    made.activate(route)
    together = gradients(lambda: [loss(range(5), branches)])
    for one, other in zip(together, gradients(separate), strict=True):
        assert torch.allclose(one, other, atol=1e-4, rtol=1e-4) and one.abs().sum() > 0
    assert made.module("swa").training and made.module("ner").training and not made.module("yor").training
    without = gradients(lambda: [loss([0, 3], [1, 1])])  # a batch without any row of swa
    count = len(list(made.module("swa").parameters()))
    assert all(g is None for g in without[:count]) and all(g.abs().sum() > 0 for g in without[count:])


def test_a_module_that_no_branch_names_is_not_trained():
    made = engine(swa="madx", yor="madx", ner="pfeiffer")
    made.activate("route(swa + ner, ner)")
    with pytest.raises(CompositionError, match="'yor' is to be trained but does not act"):
        made.train_only("ner", "yor")


# ---- weight deltas ---------------------------------------------------------------------------------------------------


def test_branches_with_different_weights_go_through_one_after_the_other():
    made = engine(swa="lt_sft", yor="lt_sft", hau="madx", ner={"sparse_diff": {"entries": 300}, "bottleneck": {}})
    theta = {n: p.clone() for n, p in made.base.encoder.named_parameters()}
    route = route_of("swa + ner", "yor + ner", "hau + ner", "ner", "ties(swa, yor) + ner", "0.5*swa + hau + ner")
    require_equal(made, route, [4, 0, 3, 5, 1, 2, 0, 1])
    made.activate(route)
    assert made.groups([2, 0, "ner", "yor + ner", 0]) == [[1, 4], [3], [0, 2]]
    made.activate(None)
    assert all(torch.equal(p, theta[n]) for n, p in made.base.encoder.named_parameters())


def test_one_weight_delta_for_all_rows_takes_one_pass(monkeypatch):
    made = engine(swa="madx", yor="madx", ner="lt_sft_task")
    require_equal(made, route_of("swa + ner", "yor + ner"), [1, 0, 1])
    monkeypatch.setattr(ActiveComposition, "add_weights", None)
    ids, mask = tiny.inputs(3)
    assert made(ids, mask, branches=[1, 0, 1]).requires_grad is False
    made.train_only("swa")
    made(ids, mask, branches=[1, 0, 1]).sum().backward()
    assert all(p.grad is not None for n, p in made.module("swa").named_parameters() if "embeddings" not in n)


def test_a_weight_delta_that_all_branches_share_is_trained_on_mixed_batches():
    made = engine(
        swa="madx",
        yor="madx",
        labels=runs.ner().labels.tags,
        ner={"sparse_diff": {"entries": 200, "groups": ["layers"]}},
    )
    theta = {n: p.clone() for n, p in made.base.encoder.named_parameters()}
    made.activate("route(swa + ner, yor + ner)")
    own = {"train_branches": [k % 2 for k in range(21)], "dev_branches": [k % 2 for k in range(9)]}
    settings = TrainSettings(learning_rate=1e-2, progress=False, keep_best=False)
    before = made.module("ner").units["weights"]["sparse_diff"].values.detach().clone()
    result = fit(made, "ner", runs.ner(**own), settings, steps=3, seed=0)
    assert result.history[-1]["loss"] > 0 and not torch.equal(
        made.module("ner").units["weights"]["sparse_diff"].values, before
    )
    made.activate(None)
    assert all(torch.equal(p, theta[n]) for n, p in made.base.encoder.named_parameters())


def test_gradients_through_weights_that_changed_since_are_refused(tmp_path):
    made = engine(swa={"sparse_diff": {}, "bottleneck": {}}, yor="lt_sft", ner="pfeiffer")
    made.activate("route(swa + ner, yor + ner)")
    made.train_only("ner")
    ids, mask = tiny.inputs(3)
    with pytest.raises(CompositionError, match="gradients cannot flow back through weights that have changed"):
        made(ids, mask, branches=[0, 1, 0])
    made(ids, mask, branches=[1, 1, 1]).sum().backward()  # one difference at a time
    with pytest.raises(CompositionError, match="cannot be trained on as a weight delta"):
        with made.on_top(made.module("yor").units["weights"]["sparse_diff"]):
            pass
    with pytest.raises(CompositionError, match="cannot be merged into the base"):
        made.merge()
    with pytest.raises(CompositionError, match="cannot be written in another format"):
        export_modules(made.composition, made.modules, "adapterhub", tmp_path / "x", base=made.base)
    with pytest.raises(CompositionError, match="cannot be mixed for each sentence"):
        EntropyMixing(made, word_logits)
    assert not list(tmp_path.iterdir())


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("branches", "words"),
    [
        (
            None,
            "'route\\(swa \\+ ner, yor \\+ ner\\)' has 2 branches.*3 rows.*branches=\\[0, 1, 0\\]",
        ),
        ([0, 1], "2 entries for 3 rows"),
        ([0, 1, 0, 1], "4 entries for 3 rows"),
        ([0, 1, 2], "names 2, but the branches of .* 0 to 1"),
        ([0, -1, 1], "names -1, but .* 0 to 1"),
        ([0, 1, 0.0], "holds 0.0: whole numbers or texts"),
        ([0, True, 1], "holds True"),
        ([0, None, 1], "holds None"),
        (1, "branches is 1: a list with one entry for each row"),
        ("swa + ner", "branches is 'swa"),
        (["swa", 0, 0], "'swa' is no branch of .*Allowed: swa \\+ ner, yor \\+ ner"),
        (["swa +", 0, 0], "Cannot read the composition"),
        (torch.tensor([0.0, 1.0, 0.0], dtype=torch.bfloat16), "float32"),
        (torch.tensor([[0], [1], [0]]), "shape \\(3, 1\\)"),
        (torch.tensor([True, False, True]), "holds bool"),
        (torch.tensor(1), "shape \\(\\)"),
        ([], "0 entries for 3 rows"),
    ],
)
def test_branches_refused(branches, words):
    made = engine(swa="pfeiffer", yor="pfeiffer", ner="pfeiffer")
    made.activate("route(swa + ner, yor + ner)")
    hidden = torch.randn(3, 32)
    for ask in (
        lambda: made(*tiny.inputs(3), branches=branches),
        lambda: made.mlm_logits(hidden, branches=branches),
        lambda: made.label_logits(hidden, branches=branches),
    ):
        with pytest.raises(CompositionError, match=words):
            ask()


def test_requests_that_make_no_sense():
    made = engine(swa="madx", ner="pfeiffer")
    ids, mask = tiny.inputs(3)
    made.activate("swa + ner")
    for ask in (
        lambda: made(ids, mask, branches=[0, 0, 0]),
        lambda: made.label_logits(torch.randn(3, 32), branches=[0, 0, 0]),
        lambda: made.explain(ids, mask, branches=[0, 0, 0]),
        lambda: made.groups([0]),
    ):
        with pytest.raises(CompositionError, match="is no route"):
            ask()
    with pytest.raises(CompositionError, match="No module 'swaa' is attached; did you mean 'swa'"):
        made.activate("route(swa + ner, swaa + ner)")
    assert str(made.composition) == "swa + ner"
    made.activate("route(swa + ner, ner)")
    with pytest.raises(CompositionError, match="acts in 'route"):
        made.detach("swa")
    with pytest.raises(CompositionError, match=r"branches=\["):
        made.base.encoder(input_ids=ids, attention_mask=mask)
    with pytest.raises(CompositionError, match=r"branches=\["):
        made.base.model.lm_head(torch.randn(2, 32))
    made.activate(None)
    made.base.encoder(input_ids=ids, attention_mask=mask)


def test_a_base_that_joins_its_rows_is_noticed():
    """A base that lays all tokens in one row, as flash attention without padding does, is not cut at wrong places."""
    made = engine(swa="pfeiffer", yor="pfeiffer")
    made.activate("route(swa, yor)")
    plan = made._route.plan((0, 1))
    call = Call(plan, offsets=(0, 2, 3))
    with made._current.running(call), pytest.raises(CompositionError, match="expects 3 rows.*passes 1.*sdpa"):
        plan["layer.0.ffn"][0].slices(1)


def test_after_an_error_the_next_batch_is_right():
    made = engine(swa="pfeiffer", yor="pfeiffer")
    made.activate("route(swa, yor)")
    ids, mask = tiny.inputs(2)
    before = made(ids, mask, branches=[1, 0])
    with pytest.raises(IndexError):
        made(ids + 10**6, mask, branches=[0, 1])
    with pytest.raises(CompositionError, match=r"branches=\["):
        made.base.encoder(input_ids=ids)
    assert torch.equal(made(ids, mask, branches=[1, 0]), before)


# ---- explained -------------------------------------------------------------------------------------------------------


def test_explained_branch_by_branch():
    made = engine(swa="madx", yor="lt_sft", hau="madx", ner="pfeiffer")
    made.activate("route(swa + ner, 0.5*hau + ner, swa + ner)")
    text = str(made.explain())
    assert text.startswith("route of 3 branches   on tiny-xlm-roberta (xlm-roberta, 3 layers)\nbranch 0: swa + ner\n")
    assert "at once for all rows: ner" in text and "every module named acts" in text and "forward pass" not in text
    assert text.count("after undoing swa") == 2 and "none: a scaled invertible component has no inverse" in text
    assert text.count("ner: 3 labels") == 3 and text.count("reads sum_norm, times 0.5") == 1
    made.activate("route(swa + ner, yor + ner)")
    assert "separate forward passes: 0; 1" in str(made.explain())


def test_explained_and_measured_on_the_rows_of_each_branch():
    made = engine(swa="madx", yor="madx", dead="pfeiffer", ner="pfeiffer")
    with torch.no_grad():
        [p.zero_() for p in made.module("dead").parameters()]
    made.activate("route(swa + ner, yor + ner, dead + ner)")
    ids, mask = tiny.inputs(4)
    route = made._route
    found = made.explain(ids, mask, branches=[0, 0, 1, 0])
    assert made._route is route and found.measured
    of = {
        (k, a.module): a for k, branch in enumerate(found.branches) for a in branch.actions if a.site == "layer.1.ffn"
    }
    assert all(of[k, n].calls == 1 and of[k, n].change > 0 for k, n in ((0, "swa"), (0, "ner"), (1, "yor"), (1, "ner")))
    assert of[2, "dead"].calls is None and found.inactive == []  # no row of it came
    every = made.explain(ids, mask)
    assert every.inactive == ["dead"] and "INACTIVE: dead does not act (measured" in str(every)
    assert every.as_dict()["branches"][2]["inactive"] == ["dead"]
    made.activate("swa + ner")
    alone = {
        a.module: a.change for a in made.explain(ids[[0, 1, 3]], mask[[0, 1, 3]]).actions if a.site == "layer.1.ffn"
    }
    assert of[0, "swa"].change == pytest.approx(alone["swa"], rel=1e-3)


def test_weight_deltas_are_measured_and_left_unchanged():
    made = engine(swa="lt_sft", yor="lt_sft", ner="pfeiffer")
    made.activate("route(swa + ner, yor + ner)")
    before = made(*tiny.inputs(2), branches=[0, 1])
    found = made.explain(*tiny.inputs(2))
    assert [b.actions[0].site for b in found.branches] == ["weights"] * 2 and found.passes == [[0], [1]]
    assert all(b.actions[0].change > 0 for b in found.branches) and found.inactive == []
    assert torch.equal(made(*tiny.inputs(2), branches=[0, 1]), before)


@example(["swa + ner", "yor + ner", "ner"])
@given(st.lists(st.sampled_from(STACKS), min_size=1, max_size=5))
@settings(derandomize=True, max_examples=30, deadline=None)
def test_a_plan_is_made_of_the_stacks_own_steps(many, stacks):
    """Cut for each branch, the merged plan gives the steps of that branch's stack, in order."""
    many.activate(route_of(*stacks))
    route: RoutePlan = many._route
    ranks = tuple(range(len(route.stacks)))
    plan = route.plan(ranks)

    def taken(steps, rank):
        for step in steps:
            if hasattr(step, "groups"):
                for a, b, inner in step.groups:
                    if a <= rank < b:
                        yield from taken(inner, rank)
            else:
                yield step

    for rank in ranks:
        own = route.of_stack(route.stacks[rank])
        for site in {*plan, *own}:
            assert list(taken(plan.get(site, []), rank)) == own.get(site, [])
