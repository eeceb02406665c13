"""The algebra of compositions: normal form, text both ways, and refusals that say where."""

import math
import string
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from madx.composition import (
    MAX_NAME,
    RESERVED,
    Average,
    Route,
    Scaled,
    Stack,
    Ties,
    as_composition,
    check_name,
    parse,
    require_stack,
)
from madx.errors import CompositionError

quick = settings(derandomize=True, max_examples=150, deadline=None)
legal = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,8}", fullmatch=True).filter(lambda n: n not in RESERVED)
weight = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 1 / 3, 0.1, -0.25, 2.0, 1e-5, 1e20]), st.floats(-10, 10, allow_subnormal=False)
)


@st.composite
def stacks(draw, names=None, depth=2):
    """A composition whose names are taken, each once, from `names`."""
    pool = list(draw(st.lists(legal, min_size=3, max_size=8, unique=True)) if names is None else names)
    items = []
    while pool and (not items or draw(st.booleans())):
        if depth == 0 or draw(st.booleans()):
            items.append(pool.pop())
            continue
        take = draw(st.integers(1, len(pool)))
        own, pool = pool[:take], pool[take:]
        children = draw(st.lists(stacks(own, depth - 1), min_size=1, max_size=3))
        kind = draw(st.sampled_from(["average", "average", "scaled", "ties"]))
        if kind == "scaled":
            items.append(Scaled(children[0], draw(weight.filter(lambda w: abs(w) < 1e6))))
            continue
        if kind == "ties":
            items.append(Ties(*children))
            continue
        weights = tuple(draw(st.lists(weight, min_size=len(children), max_size=len(children))))
        try:
            items.append(Average(*children, weights=draw(st.sampled_from([weights, None]))))
        except CompositionError:  # these weights cancel out
            items.append(Average(*children))
    return Stack(*items)


def branches(item):
    return (item.child,) if isinstance(item, Scaled) else item.children


def all_paths(stack):
    """Every way through a composition, spelt out."""
    choices = [[(i,)] if isinstance(i, str) else [p for c in branches(i) for p in all_paths(c)] for i in stack.items]
    return [sum(choice, ()) for choice in product(*choices)]


@pytest.mark.slow
@given(stacks())
@quick
def test_text_and_back(c):
    assert parse(str(c)) == c == as_composition(str(c)) == as_composition(c)
    assert hash(parse(str(c))) == hash(c)
    assert str(parse(str(c))) == str(c)


@pytest.mark.slow
@given(stacks())
@quick
def test_normal_form(c):
    assert Stack(c) == c == Stack(Stack(), c, Stack()) == Stack(Average(c)) == Stack(Average(c, c))
    assert Stack(Average(c, c, weights=(0.3, 0.4))) == c
    assert all(
        isinstance(i, str | Scaled)
        or len(set(i.children)) > 1
        and (isinstance(i, Ties) or len(set(i.children)) == len(i.children))
        for i in c.items
    )
    assert all(i.factor not in (0.0, 1.0) and i.child.items for i in c.items if isinstance(i, Scaled))
    assert Stack(Scaled(c, 1.0)) == c == Stack(Ties(c)) == Stack(Ties(c, c, Stack()))
    assert Stack(Scaled(c, 0.0)) == Stack() == Stack(Ties(Stack()))
    assert Stack(Scaled(Scaled(c, 0.5), 2.0)) == c
    half = Average(c, "zz-other", weights=(0.25, 0.75)) if "zz-other" not in c.names() else Average(c)
    assert Average(*half.children, weights=half.weights) == half


@pytest.mark.slow
@given(stacks())
@quick
def test_names_in_the_order_written_and_once_on_every_path(c):
    paths = all_paths(c)
    assert all(len(set(p)) == len(p) for p in paths)
    assert set(c.names()) == {name for p in paths for name in p} and len(set(c.names())) == len(c.names())
    text = str(c)
    for token in ("average(", "ties(", ")", ","):
        text = text.replace(token, " ")
    written = [t.rpartition("*")[2].strip("()") for t in text.split() if t not in ("+", "base")]
    assert list(c.names()) == list(dict.fromkeys(filter(None, written)))


def test_names_follow_the_text_not_the_paths():
    assert parse("average(swa, hau) + ner").names() == ("swa", "hau", "ner")


@given(st.lists(weight, min_size=2, max_size=5))
@quick
@example([0.3, 0.3, 0.3])
@example([1 / 3 + 1e-12] * 3)
@example([1e308, 1e308])
@example([1e20, -1e20, 1.0])
@example([1.0, 0.0])
@example([math.nan, 1.0])
@example([math.inf, 1.0])
@example([0.5, -0.5])
def test_weights_are_scaled_to_one_once(weights):
    children = [f"m{i}" for i in range(len(weights))]
    total = sum(weights)
    try:
        average = Average(*children, weights=tuple(weights))
    except CompositionError as error:
        assert "finite and not cancel" in str(error)
        assert not math.isfinite(sum(map(abs, weights))) or abs(total) <= 1e-5 * max(map(abs, weights)) + 1e-11
        return
    assert math.isclose(math.fsum(average.weights), 1.0, abs_tol=1e-8)
    kept = [(c, w) for c, w in zip(children, weights) if w != 0]
    assert [str(c) for c in average.children] == [c for c, _ in kept]  # a child of weight zero is left out
    for (_, given_weight), w in zip(kept, average.weights):
        assert math.isclose(w, given_weight / total, rel_tol=1e-6)
    assert Average(*average.children, weights=average.weights).weights == average.weights


def test_weights_refused():
    with pytest.raises(CompositionError, match="2 children but 3 weights"):
        Average("a", "b", weights=(1, 1, 1))
    with pytest.raises(CompositionError, match="nothing"):
        Average()
    with pytest.raises(CompositionError, match="not int"):
        Stack(3)


@pytest.mark.parametrize(
    "text",
    [
        "a + a",
        "a + average(b, a)",
        "average(a + a, b)",
        "average(a, b) + average(c, a)",
        "a + average(b, average(c, a))",
    ],
)
def test_a_module_twice_along_a_path_is_refused(text):
    with pytest.raises(CompositionError, match="'a' twice"):
        parse(text)


def test_factors_and_weights_are_told_apart():
    """In an average the first number is the weight; brackets make it a factor of the first module."""
    assert parse("0.5*swa + ner") == Stack(Scaled("swa", 0.5), "ner") and parse("2*3*(a + b)") == Stack(
        Scaled(Stack("a", "b"), 6)
    )
    assert parse("average(0.5*a, b)") == Stack(Average("a", "b", weights=(0.5, 1)))
    assert parse("average((0.5*a), b)") == Stack(Average(Scaled("a", 0.5), "b")) != parse("average(0.5*a, b)")
    assert parse("average((0.5*a + b), c)") == Stack(Average(Stack(Scaled("a", 0.5), "b"), "c"))
    assert parse("average(2*0.5*a, b)") == Stack(Average(Scaled("a", 0.5), "b", weights=(2, 1)))
    assert str(parse("average((0.5*a), b)")) == "average((0.5*a), b)" and str(parse("-1.0*a")) == "-1.0*a"
    assert parse("1*a") == parse("a") and parse("0*a + b") == parse("b") and parse("ties(a, base)") == parse("a")
    for factor in (math.inf, math.nan):
        with pytest.raises(CompositionError, match="the factor must be finite"):
            Scaled("a", factor)
    with pytest.raises(CompositionError, match="finite"):
        parse("1e200*1e200*a")


def test_a_module_in_two_branches_is_allowed():
    assert parse("average(a + b, a + c)").names() == ("a", "b", "c")


def test_many_averages_are_read_at_once():
    """The paths through them are 2^200; none of them is spelt out."""
    c = parse(" + ".join(f"average(a{i}, b{i})" for i in range(200)))
    assert len(c.names()) == 400 and parse(str(c)) == c


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("", 1),
        ("  ", 1),
        ("swa +", 6),
        ("swa ner", 5),
        ("swa   ?", 7),
        ("+ swa", 1),
        ("(swa", 5),
        ("swa)", 4),
        ("average", 8),
        ("average swa", 9),
        ("swa + average + ner", 15),
        ("average(", 9),
        ("average()", 9),
        ("average(swa", 12),
        ("average(swa,)", 13),
        ("average(swa hau)", 13),
        ("average(1.2.3*swa, hau)", 9),
        ("average(..*swa)", 9),
        ("2*", 3),
        ("2*+", 3),
        ("1.2.3*swa", 1),
        ("ties", 5),
        ("ties(", 6),
        ("ties()", 6),
        ("ties(a b)", 8),
        ("route", 6),
        ("route a", 7),
        ("route(", 7),
        ("route()", 7),
        ("route(a", 8),
        ("route(a b)", 9),
        ("route(a, b) + c", 13),
        ("c + route(a)", 5),
        ("route(a, route(b))", 10),
        ("average(route(a), b)", 9),
        ("ties(route(a))", 6),
        ("0.5*route(a)", 5),
        ("(route(a))", 2),
        ("average(0.5*a + b, c)", 15),
        ("swa + " + "n" * (MAX_NAME + 1), 7),
        ("_swa", 1),
        ("swa\n+\n?", 7),
        ("(" * 3000 + "a" + ")" * 3000, 51),
        ("average(" * 3000, 401),
    ],
)
def test_malformed_text_names_the_character(text, at):
    with pytest.raises(CompositionError, match=rf"character {at}\b"):
        parse(text)


@given(
    st.one_of(
        st.text(max_size=30),
        st.text(alphabet="ab+*(), .1-e\n\t", max_size=30),
        st.lists(
            st.sampled_from(
                [
                    "average",
                    "ties",
                    "route",
                    "(",
                    ")",
                    ",",
                    "+",
                    "a",
                    "b",
                    "base",
                    "0.5*",
                    "1e999*",
                    "-",
                    " ",
                    "é",
                    "1e5",
                ]
            ),
            max_size=20,
        ).map("".join),
    )
)
@settings(derandomize=True, max_examples=600, deadline=None)
def test_any_text_is_read_or_refused_in_words(text):
    try:
        c = parse(text)
    except CompositionError as error:
        assert any(
            w in str(error)
            for w in (
                "at character",
                "twice in one stack",
                "must be finite and not cancel",
                "the factor must be finite",
                "stands outermost",
            )
        )
    else:
        assert parse(str(c)) == c


@pytest.mark.parametrize(
    "name",
    [*RESERVED, "", " swa", "swa ", "a b", "a/b", "../a", ".a", "-a", "_a", "@a", "é", "a\n", "a" * 101, None, 3],
)
def test_illegal_names(name):
    with pytest.raises(CompositionError, match="cannot name a module"):
        check_name(name)


@given(legal)
@quick
@example("1")
@example("1e5")
@example("averages")
@example("base2")
@example("0.5")
@example("ner@1")
@example("a" * 100)
def test_legal_names_are_read(name):
    assert check_name(name) == name
    assert parse(name) == Stack(name) and parse(f"({name})") == Stack(name)
    assert parse(f"average(0.25*{name}, 0.75*other.)").names() == (name, "other.")


def test_the_bare_base():
    assert parse("base") == Stack() == as_composition(None) == parse("(base + base)") and str(Stack()) == "base"
    assert str(parse("average(base, 3*(swa + ner))")) == "average(0.25*base, 0.75*(swa + ner))"


def test_printed_text_is_in_the_alphabet():
    assert set(str(parse("average(0.1*a, 0.00001*b, c) + -0.5*d + ties(e, f)"))) <= set(
        string.ascii_letters + string.digits + "+*(),.- "
    )


# ---- routes ----------------------------------------------------------------------------------------------------------


@given(st.lists(stacks(), min_size=1, max_size=3))
@settings(quick, max_examples=40)
def test_a_route_is_its_branches_in_order(branches):
    route = Route(*branches)
    assert route.branches == tuple(branches) and parse(str(route)) == route == as_composition(
        str(route)
    ) == as_composition(route)
    assert hash(parse(str(route))) == hash(route) and str(parse(str(route))) == str(route)
    assert parse(str(route)) == route
    assert set(route.names()) == {n for b in branches for n in b.names()} and len(set(route.names())) == len(
        route.names()
    )


def test_branches_of_a_route_may_be_alike_share_modules_and_be_bare():
    route = parse("route(swa + ner, swa + ner, average(swa, hau) + ner, base)")
    assert [str(b) for b in route.branches] == ["swa + ner", "swa + ner", "average(swa, hau) + ner", "base"]
    assert route.names() == ("swa", "ner", "hau") and route != parse("route(swa + ner)")


@pytest.mark.parametrize(
    "make",
    [
        lambda r: Stack("a", r),
        lambda r: Average(r, "a"),
        lambda r: Scaled(r, 2.0),
        lambda r: Ties(r, "a"),
        Route,
        lambda r: Stack(r),
    ],
)
def test_a_route_stands_outermost(make):
    with pytest.raises(CompositionError, match=r"'route\(b, c\)' cannot .* each branch in full"):
        make(Route("b", "c"))


def test_routes_refused():
    with pytest.raises(CompositionError, match="route\\(\\) of nothing: give at least one branch"):
        Route()
    with pytest.raises(CompositionError, match="not int"):
        Route(3)
    with pytest.raises(CompositionError, match="'a' twice in one stack|twice"):
        parse("route(a + a)")
    with pytest.raises(
        CompositionError, match="'route\\(a\\)' cannot be exported: a route is for a batch of mixed rows"
    ):
        require_stack(Route("a"), "exported")
    assert require_stack(Stack("a"), "exported") == Stack("a")
