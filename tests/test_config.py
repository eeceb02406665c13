"""Strict settings: every fault at once, with its line; what is written is read back."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from madx.config import Settings, describe, dump, load, to_dict
from madx.errors import ConfigError


class Inner(Settings):
    rate: float = Field(default=1e-4, gt=0, description="A rate.")
    words: tuple[str, ...] = Field(default=(), description="Words.")


class Outer(Settings):
    name: str = Field(description="A name.")
    steps: int | Literal["auto"] = Field(default="auto", description="Steps.")
    source: str | list[str] = Field(default="x", description="Source.")
    limit: int | None = Field(default=None, ge=1, description="Limit.")
    on: bool = Field(default=True, description="Switch.")
    table: dict[str, float] = Field(default={}, description="Table.")
    inner: Inner = Field(default=Inner(), description="Inner.")


@pytest.fixture
def write(tmp_path):
    def write(text, name="s.yaml"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write


def faults(*args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    return str(caught.value)


def test_reads_what_people_write(write):
    path = write("name: no\nsteps: 10\nsource: [a, b]\ninner:\n  rate: 1e-4\n  words: [on, off, '1']\ntable: {a: 2}\n")
    got = load(path, Outer)
    assert (got.name, got.steps, got.source, got.inner.rate) == ("no", 10, ["a", "b"], 1e-4)
    assert got.inner.words == ("on", "off", "1") and got.table == {"a": 2.0}


def test_all_faults_at_once_with_line_and_suggestion(write):
    path = write("steps: many\ninner:\n  ratte: 1\n  rate: -1\nlimit: 0\non: 1\non: true\nsource: 3\n")
    text = faults(path, Outer, ["inner.words=3", "innner.x=1"])
    first, *rest = text.splitlines()
    assert "9 faults" in first and str(path) in first and len(rest) == 9
    expected = {
        f"{path}:1: steps": ("integer", "many", "auto"),
        f"{path}:3: inner.ratte": ("did you mean 'rate'?", "Allowed: rate, words"),
        f"{path}:4: inner.rate": ("greater than 0", "-1"),
        f"{path}:5: limit": ("1", "0"),
        f"{path}:7: on": ("twice",),
        f"{path}:8: source": ("3",),
        f"{path}:1: name": ("missing",),
        "override 'inner.words=3': inner.words": ("3",),
        "override 'innner.x=1': innner": ("did you mean 'inner'?",),
    }
    for place, parts in expected.items():
        (line,) = [line for line in rest if line.strip().startswith(f"{place}: ")]
        assert all(part in line for part in parts), line


def test_overrides(write):
    path = write("name: a\nsource: [a, b]\n")
    got = load(path, Outer, ["source.1=c", "inner.rate=2", "limit=null", "name=null_", "table.x=1e-3"])
    assert got.source == ["a", "c"] and got.inner.rate == 2.0 and got.name == "null_" and got.table == {"x": 1e-3}
    assert load(None, Outer, ["name=eng"]).name == "eng"
    for bad, said in (
        ("source.5=c", "the list has 2 items"),
        ("name.x=1", "lies inside text"),
        ("name", "expected KEY=VALUE"),
        ("on=yes", "expected"),
        ("name=[", "not YAML"),
    ):
        assert said in faults(path, Outer, [bad])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "expected keys with values"),
        ("name: [a\n", "this is not YAML"),
        (b"\xff\xfe\x00", "Cannot read"),
        ("", "name: missing"),
        ("name: {a: {b\n", "s.yaml:2"),
        ("just text\n", "expected keys with values"),
    ],
)
def test_what_is_no_settings_file(write, text, said):
    assert said in faults(write(text), Outer)


def test_a_missing_file_names_its_neighbour(write):
    path = write("name: a\n", "train_ner.yaml")
    assert "did you mean 'train_ner.yaml'" in faults(path.with_name("train_nre.yaml"), Outer)


texts = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=12)
floats = st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300)
words = st.lists(texts | st.sampled_from(["no", "1e-4", "null", "~", "0x1", "1_000", "12:30"]), max_size=4)


@given(name=texts, source=words, rate=floats, words=words, table=st.dictionaries(texts, floats, max_size=3))
def test_what_is_dumped_is_loaded(tmp_path_factory, name, source, rate, words, table):
    settings = Outer(name=name, source=source, inner=Inner(rate=rate, words=tuple(words)), table=table)
    path = tmp_path_factory.mktemp("dump") / "s.yaml"
    dump(settings, path)
    assert load(path, Outer) == settings


def test_description_is_valid_settings(write):
    text = describe(Outer)
    assert "# A rate. (number, > 0)" in text and "name:   # required" in text and "(integer or auto)" in text
    assert load(write(text.replace("name:   # required", "name: x")), Outer) == Outer(name="x")
    assert to_dict(Outer(name="x"))["inner"] == {"rate": 1e-4, "words": []}


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        Outer(name="x").name = "y"


def test_settings_by_name_are_described_with_their_name(write):
    class Table(Settings):
        rows: dict[str, Inner] = Field(default={}, description="Rows.")

    text = describe(Table)
    assert "rows:\n  NAME:" in text
    assert load(write(text.replace("NAME", "first")), Table) == Table(rows={"first": Inner()})
