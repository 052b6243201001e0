"""What is added to an earlier file gives the later one, whatever both are."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.deltas import added, applied, delta, difference, interleaved, planes


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_a_delta_makes_the_later_file_of_the_earlier_one(base: bytes, content: bytes) -> None:
    assert applied(base, delta(base, content)) == content
    assert added(base, difference(base, content)) == content
    assert len(difference(base, content)) == len(content)


@given(st.binary(max_size=300), st.integers(1, 16))
def test_planes_are_put_together_again(content: bytes, width: int) -> None:
    apart = planes(content, width)
    assert sorted(apart) == sorted(content)
    assert interleaved(apart, width) == content


def test_bytes_are_added_modulo_256_as_a_browser_does() -> None:
    assert zlib.decompress(delta(b"abc", b"bbb")) == b"\x01\x00\xff"
    assert difference(b"", b"new") == b"new"  # zeros behind the end of the earlier one
    assert difference(b"same and more", b"same") == bytes(4)


@pytest.mark.parametrize("damaged", [b"", b"x", delta(b"a" * 99, b"b" * 99)[:-2]])
def test_a_damaged_delta_is_no_content(damaged: bytes) -> None:
    with pytest.raises(zlib.error):
        applied(b"base", damaged)
