"""CoNLL-U: the words are the syntactic ones, and a broken line is named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madx.data.labelled.conll import read_conll
from madx.data.labelled.sentences import Sentence
from madx.errors import DataError


def line(id, form="x", upos="X", misc="_"):
    return "\t".join([id, form, form, upos, "_", "_", "0", "root", "_", misc])


def read(tmp_path, *lines, name="x.conllu", **settings):
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_conll(tmp_path / name, **({"scheme": "none"} | settings))


VAMONOS = [
    "# sent_id = 1",
    "# text = vámonos al mar",
    "#no space",
    line("1-2", "vámonos", "_"),
    line("1", "vamos", "VERB"),
    line("2", "nos", "PRON"),
    line("2.1", "ya", "ADV"),
    line("3-4", "al", "_"),
    line("3", "a", "ADP"),
    line("4", "el", "DET"),
    line("5", "10 000", "NUM"),
]


def test_words_are_the_syntactic_ones(tmp_path):
    first, second = read(tmp_path, *VAMONOS, "", "", line("1", "#", "SYM"))
    assert first == Sentence(("vamos", "nos", "a", "el", "10 000"), ("VERB", "PRON", "ADP", "DET", "NUM"), 5)
    assert second == Sentence(("#",), ("SYM",), 14)


def test_the_ending_chooses_the_style_and_a_setting_overrides_it(tmp_path):
    as_columns = read(tmp_path, line("1", "a", "ADP", "misc"), style="conll")
    assert (as_columns[0].tokens, as_columns[0].tags) == (("1",), ("misc",))
    assert read(tmp_path, line("1", "a", "ADP"), name="x.txt", style="conllu")[0].tags == ("ADP",)
    assert read(tmp_path, line("1", "a", "ADP"), tag_column=-1)[0].tags == ("_",), "any column, here MISC"
    assert read(tmp_path, line("0.1"), line("1", "a", "ADP"))[0].tokens == ("a",), "an empty node before the first word"


FAULTS = {
    "nine columns": ([line("1").removesuffix("\t_")], 1, "9 columns.*CoNLL-U has 10"),
    "spaces": ([line("1").replace("\t", " ")], 1, "1 columns.*columns.style=conll"),
    "plain file": (["Ada" + line("1")[1:]], 1, "ID 'Ada'. Allowed"),
    "no blank line": ([line("1"), line("2"), line("1")], 3, "ID 1, expected 3.*blank line"),
    "gap": ([line("1"), line("3")], 2, "ID 3, expected 2"),
    "range after its word": (
        [line("1"), line("1-2")],
        2,
        "ID 1-2.*here 2",
    ),
    "backward range": ([line("2-1")], 1, "ID 2-1"),
    "overlapping ranges": ([line("1-3"), line("1"), line("2-4")], 3, "ID 2-4.*here 4"),
    "open range": ([line("1"), line("2-3"), line("2"), "", line("1")], 2, "up to word 3, but the sentence has 2 words"),
    "empty node ahead": ([line("1"), line("3.1")], 2, "ID 3.1.*here that is 1.1"),
    "no form": ([line("1", " ")], 1, "column 1 .token_column. is empty"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_broken_line_is_named(case, tmp_path):
    lines, number, text = FAULTS[case]
    with pytest.raises(DataError, match=f"x.conllu:{number}: .*{text}"):
        read(tmp_path, *lines)


def test_no_word_at_all(tmp_path):
    with pytest.raises(DataError, match="the file is empty"):
        read(tmp_path, "# text =", "")


@settings(max_examples=20)
@given(st.lists(st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=3))
def test_ranges_and_empty_nodes_never_change_the_words(tmp_path_factory, sentences):
    """Groups of 1 to 3 words, each group a multiword token if longer than one, perhaps with an empty node after it."""
    lines, wanted = [], []
    for groups in sentences:
        place = 0
        for size, empty in groups:
            if size > 1:
                lines.append(line(f"{place + 1}-{place + size}", upos="_"))
            lines += [line(str(place + i), f"w{place + i}") for i in range(1, size + 1)]
            place += size
            lines += [line(f"{place}.1", "gone")] if empty else []
        wanted.append(tuple(f"w{i}" for i in range(1, place + 1)))
        lines.append("")
    assert [s.tokens for s in read(tmp_path_factory.mktemp("u"), *lines)] == wanted
