"""Settings files and overrides that are hostile or broken: refused in words, with line or key, within a second."""

import random
import time
import tracemalloc

import pytest
from damage import damaged
from pydantic import Field

from madx.config import Settings, dump, load
from madx.config.yaml_events import MOST_BYTES, MOST_VALUES
from madx.errors import ConfigError
from madx.jobs import Compare, Evaluate, Matrix, TrainLanguage, TrainTask
from madx.jobs.quickstart import Quickstart


class Rates(Settings):
    rate: float = Field(default=1.0, description="A rate.")
    more: dict[str, float] = Field(default={}, description="More.")


class Chosen(Settings):
    name: str = Field(default="x", description="A name.")
    steps: int = Field(default=1, description="Steps.")
    rates: Rates = Field(default=Rates(), description="Rates.")
    words: list[str] = Field(default=[], description="Words.")


HEAD = "name: a\nsteps: 3\n"
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
REFUSED = {
    "alias bomb": (BOMB, ":7: more than 15,000 values, those of aliases included"),
    "alias inside itself": ("words: &a [*a]\n", ":3: the alias \\*a stands for nothing that is complete"),
    "unknown alias": ("words: *b\n", ":3: the alias \\*b"),
    "deep lists": ("words: " + "[" * 100_000, ":3: more than 32 levels"),
    "deep and closed": ("words: " + "[" * 5000 + "]" * 5000, ":3: more than 32 levels"),
    "deep mappings": ("".join("  " * n + "a:\n" for n in range(200)), ":36: more than 32 levels"),
    "deep dashes": ("words:\n" + "- " * 5000 + "1\n", ":4: more than 32 levels"),
    "too large a float": ("rates: {rate: 1e999}\n", ":3: rates.rate: 1e999 is beyond the largest number"),
    "too small a float": ("rates:\n  rate: -1e999\n", ":4: rates.rate: -1e999 is beyond"),
    "infinite": ("rates: {rate: .inf}\n", ":3: rates.rate: expected a finite number"),
    "undefined": ("rates: {rate: .nan}\n", ":3: rates.rate: expected a finite number"),
    "65 bits": ("rates: {rate: 18446744073709551616}\n", ":3: rates.rate: 18446744073709551616 is beyond 64 bits"),
    "negative": ("rates: {rate: -9223372036854775809}\n", ":3: rates.rate: -9223372036854775809 is beyond 64 bits"),
    "10,000 digits": ("rates: {rate: " + "9" * 10_000 + "}\n", ":3: rates.rate: a number of 10,000 characters"),
    "10,000 places": ("rates: {rate: 0." + "1" * 10_000 + "}\n", ":3: rates.rate: a number of 10,002 characters"),
    "an object of Python": (
        "words: !!python/object/apply:os.system [ls]\n",
        ":3: the tag !!python/object/apply:os.system at words: tags are not read",
    ),
    "binary": ("words: [!!binary aGVsbG8=]\n", ":3: the tag !!binary at words.0"),
    "a tag of a type": ("rates: {rate: !!str 1}\n", ":3: the tag !!str at rates.rate"),
    "a tag of its own": ("rates: !rates {rate: 1}\n", ":3: the tag !rates at rates"),
    "merge key": ("rates: &r {rate: 1}\nmore:\n  <<: *r\n", ":5: in more: merge keys"),
    "key given twice": ("rates: {rate: 1, rate: 2}\n", ":3: rates.rate: given twice"),
    "list as a key": ("? [a, b]\n: 1\n", ":3: in the top: a key must be a plain text"),
    "alias as a key": ("rates: &r x\n*r : 1\n", ":4: in the top: a key must be a plain text"),
    "no key": ("?\n: 1\n", ":[34]: in the top: a value without a key"),
    "two documents": ("---\nsteps: 4\n", ":3: a second document begins"),
    "half of a character": ('words: ["\\uD800"]\n', ":3: .*words.0.*surrogate"),
    "zero byte": ('words: ["a\\0b"]\n', ":3: .*words.0.*zero byte"),
    "zero byte itself": ("words: [\0]\n", ":3: this is not YAML: the character '.x00'"),
    "beyond Unicode": ('words: ["\\UFFFFFFFF"]\n', "this is not YAML: an escape"),
    "version of 5,000 digits": ("", "this is not YAML"),
    "very long": ("# " + "x" * MOST_BYTES + "\n", "has more than 524,288 bytes"),
    "very many": ("words: [" + "a," * MOST_VALUES + "]\n", ":3: more than 15,000 values"),
    "many unknown keys": ("".join(f"k{n}: 1\n" for n in range(5000)), ":3: k0: unknown key"),
    "long key": ("k" * 900 + ": 1\n", ":3: k{80}\\.\\.\\.: unknown key"),
    "nearly a number": ("steps_: " + "1" * 100_000 + "x\n", ":3: steps_: unknown key; did you mean 'steps'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_refused_at_once_with_its_line(kind, tmp_path):
    text, message = REFUSED[kind]
    text = "%YAML 1." + "9" * 5000 + "\n---\n" + HEAD if kind == "version of 5,000 digits" else HEAD + text
    path = tmp_path / "s.yaml"
    path.write_text(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match=f"s.yaml.*{message}" if message[0] != ":" else f"s.yaml{message}") as caught:
        load(path, Chosen)
    assert time.process_time() - began < 3, "a second on an idle machine"
    assert len(str(caught.value)) < 50_000


@pytest.mark.parametrize("kind", ["alias bomb", "deep lists", "nearly a number", "very long"])
def test_a_refusal_takes_little_memory(kind, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + REFUSED[kind][0])
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError):
            load(path, Chosen)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_what_people_write_is_still_read(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "rates: {rate: &r 18446744073709551615, more: {a: *r, b: 1e308, '': 2, '<<': 3}}\nwords: [no, '1']\n"
    )
    got = load(path, Chosen)
    assert got.rates.rate == 2.0**64 and got.words == ["no", "1"]
    assert got.rates.more == {"a": 2.0**64, "b": 1e308, "": 2, "<<": 3}
    path.write_text("a: &a [x, y]\nb: *a\n")

    class Two(Settings):
        a: list[str] = Field(description="A.")
        b: list[str] = Field(description="B.")

    got = load(path, Two, ["b.0=z"])
    assert (got.a, got.b) == (["x", "y"], ["z", "y"]), "an alias is a copy"


def test_text_that_looks_like_a_number_beyond_bounds_is_written_in_quotes(tmp_path):
    for name in ("9" * 30, "9" * 500, "1e999", "<<"):
        dump(Chosen(name=name), tmp_path / "s.yaml")
        assert load(tmp_path / "s.yaml", Chosen).name == name


OVERRIDES = [
    ("²=1", "²: unknown key"),
    ("rates.²=1", "rates.²: unknown key"),
    ("words.²=1", "words.²: the list has 2 items"),
    ("words.٣=1", "the list has 2 items"),
    ("words." + "9" * 5000 + "=1", "the list has 2 items"),
    ("words.-1=c", "the list has 2 items"),
    ("a..b=1", "override 'a..b=1': an empty step in the key"),
    ("rates.=1", "an empty step in the key"),
    (".steps=1", "an empty step in the key"),
    (".=1", "an empty step in the key"),
    ("=1", "expected KEY=VALUE"),
    (" =1", "expected KEY=VALUE"),
    ("==", "expected KEY=VALUE"),
    ("steps", "expected KEY=VALUE"),
    ("", "expected KEY=VALUE"),
    ("steps==5", 'steps: expected integer, got "=5"'),
    ("steps=²", 'steps: expected integer, got "²"'),
    ("steps=1e999", "steps: 1e999 is beyond the largest number"),
    ("steps=" + "9" * 9999, "steps: a number of 9,999 characters"),
    ("steps=!!int 3", "the tag !!int at steps"),
    ("words=&a [*a]", "alias"),
    ("words=" + "[" * 9999, "more than 32 levels"),
    ("rates={rate: 1, rate: 2}", "rates.rate: given twice"),
    ("rates={<<: 1}", "merge keys"),
    ("steps=1\n---\n2", "a second document"),
    ("steps=\x07", "is not allowed"),
    (".".join("a" * 40) + "=1", "more than 32 steps"),
]


@pytest.mark.parametrize(("override", "message"), OVERRIDES)
def test_an_override_is_refused_in_words(override, message):
    with pytest.raises(ConfigError) as caught:
        load(None, Chosen, ["words=[a, b]", override])
    text = str(caught.value)
    assert message in text and "override" in text and len(text) < 1000


def test_a_key_of_digits_stays_as_it_is():
    assert load(None, Chosen, ["rates.more.007=1"]).rates.more == {"007": 1.0}


@pytest.mark.parametrize("seed", [-1, 2**64, 10**40])
@pytest.mark.parametrize("job", [TrainLanguage, TrainTask, Evaluate, Matrix, Compare, Quickstart])
def test_a_seed_has_64_bits(job, seed):
    key, value = ("seed", str(seed)) if job is TrainLanguage else ("seeds", f"[1, {seed}]")
    with pytest.raises(ConfigError, match=rf"override '{key}=.*(greater than or equal to 0|beyond 64 bits)"):
        load(None, job, [f"{key}={value}"])
    with pytest.raises(ValueError, match="greater than or equal to 0|less than 18446744073709551616"):
        TrainLanguage(base="b", language="swa", corpus="x.txt", seed=seed)
    assert TrainLanguage(base="b", language="swa", corpus="x.txt", seed=2**64 - 1).seed == 2**64 - 1


def test_a_damaged_file_is_read_or_refused(tmp_path):
    whole = (
        "name: ner  # a remark\nsteps: 30\nrates:\n  rate: 1.0e-4\n  more: {swa: 1, 'yor': 2.5}\nwords:\n- a\n- \"b\"\n"
    )
    path, chance, refused = tmp_path / "s.yaml", random.Random(0), 0
    for data in damaged(whole.encode(), count=240, seed=chance.randrange(100)):
        path.write_bytes(data)
        try:
            assert isinstance(load(path, Chosen), Chosen)
        except ConfigError as error:
            assert "s.yaml" in str(error)
            refused += 1
    assert refused > 80
