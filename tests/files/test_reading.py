"""Only regular files are read, and whatever lies in their place is refused at once."""

import os
import time

import pytest
from odd_files import KINDS, make

from madx.files.reading import opened, read_bytes, why_no_file


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices of POSIX")
@pytest.mark.parametrize(("kind", "words"), KINDS.items())
def test_no_regular_file(kind, words, tmp_path):
    path = tmp_path / "x"
    make(kind, path)
    began = time.monotonic()
    assert words in why_no_file(path)
    with pytest.raises(OSError):
        read_bytes(path)
    with pytest.raises(OSError), opened(path):
        pass
    assert time.monotonic() - began < 1


def test_a_regular_file_and_a_link_to_it(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "link").symlink_to("x")
    for name in ("x", "link"):
        assert why_no_file(tmp_path / name) is None and read_bytes(tmp_path / name, most=3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_bytes(tmp_path / "x", most=2)


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "x" * 300, "y/" * 3000])
def test_texts_that_are_no_path(path):
    assert why_no_file(path)
