"""The topic's record of an impression: what is written is read, in each version that ever was."""

import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidEvent
from recsys.contracts.impression_record import impression_record, impression_text, read_impression
from recsys.contracts.impressions import Impression, ShownItem
from recsys.contracts.types import DEEP
from tests.recsys.contracts.test_impressions import IMPRESSION

# Version 1, as it lies in topics: a change of the encoding needs a version of its own.
VERSION_1 = bytes.fromhex(
    "0199a27231a27531cf0000018bcfe56800a26231a266319297a2693100cb3fe0000000000000cb3ff000000000000091a974"
    "776f5f746f77657292a6416374696f6ea54472616d61a097a2693201cb3fd0000000000000cb3fb999999999999a92a7706f"
    "70756c6172a5667265736890a0c4100000803fcdcccc3deee36c0000004040ae726572616e6b3a64707040302e3581a66465"
    "76696365a27476"
)

TEXTS = st.sampled_from(["a", "Zoë", "日本", "x" * 60])
ITEMS = st.builds(
    ShownItem,
    item_id=TEXTS,
    position=st.integers(0, 999_999),
    score=st.floats(-1e30, 1e30),
    propensity=st.floats(0, 1),
    channels=st.lists(TEXTS, max_size=3).map(tuple),
    categories=st.lists(TEXTS, max_size=3).map(tuple),
    creator=st.just("") | TEXTS,
)


@st.composite
def impressions(draw: st.DrawFn) -> Impression:
    items = tuple(draw(st.lists(ITEMS, min_size=1, max_size=4)))
    width = draw(st.integers(1, 3))
    bits = draw(st.lists(st.integers(0, 2**32 - 1), min_size=len(items) * width, max_size=len(items) * width))
    features = np.array(bits, dtype=np.uint32).view(np.float32).reshape(len(items), width)
    narrowed = draw(st.integers(0, DEEP))
    return replace(IMPRESSION, user_id=draw(TEXTS), items=items, features=features, narrowed_from=narrowed)


def the_same(read: Impression, written: Impression) -> bool:
    """NaN included: the features' bits are compared."""
    return (
        replace(read, features=None) == replace(written, features=None)  # type: ignore[arg-type]
        and read.features.tobytes() == written.features.tobytes()
        and read.features.shape == written.features.shape
    )


@given(impressions())
def test_what_is_written_is_read(impression: Impression) -> None:
    record = impression_record(impression)
    as_json = json.dumps(impression.to_dict()).encode()
    assert the_same(read_impression(record), impression)
    assert the_same(read_impression(as_json), impression)
    assert json.loads(impression_text(record)) == json.loads(as_json)
    assert len(record) < len(as_json)


def test_version_1_stays_readable() -> None:
    assert impression_record(IMPRESSION) == VERSION_1
    assert the_same(read_impression(VERSION_1), IMPRESSION)


def test_a_version_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(InvalidEvent, match="version 3 is not known"):
        read_impression(b"\x03" + VERSION_1[1:])


def test_version_2_says_from_where_on_a_list_was_narrowed() -> None:
    narrowed = replace(IMPRESSION, narrowed_from=40)
    version_2 = bytes([2, 0x90 | 10]) + VERSION_1[2:] + bytes([40])  # an array of ten values, not of nine
    assert impression_record(narrowed) == version_2
    assert the_same(read_impression(version_2), narrowed)
    before = IMPRESSION.to_dict()
    del before["narrowed_from"]  # as JSON was written before there was the mark
    assert the_same(read_impression(json.dumps(before).encode()), IMPRESSION)


@given(st.binary(max_size=40) | st.integers(0, len(VERSION_1) - 1).map(lambda length: VERSION_1[:length]))
def test_other_bytes_are_refused(value: bytes) -> None:
    for tried in (value, b"\x01" + value, b"\x02" + value):
        if tried[1:] != VERSION_1[1:]:
            with pytest.raises(InvalidEvent):
                read_impression(tried)
    assert isinstance(impression_text(value), str)


def test_values_of_another_type_are_refused() -> None:
    values = msgspec.msgpack.decode(VERSION_1[1:])
    for place in range(len(values)):
        broken = [*values[:place], ["no"], *values[place + 1 :]]
        with pytest.raises(InvalidEvent):
            read_impression(b"\x01" + msgspec.msgpack.encode(broken))
