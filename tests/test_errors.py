"""The text of errors."""

from madx.errors import LONGEST, DataError


def test_a_message_is_bounded_with_its_beginning_and_its_end():
    assert str(DataError("x" * LONGEST)) == "x" * LONGEST
    long = str(DataError("begin" + "x" * 1_000_000 + "end"))
    assert long.startswith("begin") and long.endswith("end") and "[992,008 characters]" in long
    assert len(long) < LONGEST + 50
