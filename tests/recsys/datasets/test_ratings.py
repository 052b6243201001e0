"""Ratings on any scale become stars, low ones dislikes; the report says when a scale is missing."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.events import Event
from recsys.contracts.truth import truth
from recsys.contracts.types import EventType
from recsys.datasets.importer import validate_dataset
from recsys.datasets.opening import open_dataset
from tests.recsys.datasets.streams import read_events

MAPPING = """
events:
  files: [e.csv]
  user: u
  item: i
  time: {{column: t, unit: s}}
  events: [{{type: rating, value: v{scale}}}]
"""


def log(folder: Path, *values: object, scale: str = "") -> Path:
    (folder / "mapping.yaml").write_text(MAPPING.format(scale=scale))
    rows = (f"u,i{n},{1_700_000_000 + n},{value}\n" for n, value in enumerate(values))
    (folder / "e.csv").write_text("u,i,t,v\n" + "".join(rows))
    return folder


def stars(event: Event) -> tuple[EventType, float | None]:
    return event.type, event.value


def test_values_of_a_scale_are_stars(tmp_path: Path) -> None:
    thumbs = read_events(open_dataset(log(tmp_path, 0, 1, scale=", scale: [0, 1]")))
    assert [stars(e) for e in thumbs] == [(EventType.DISLIKE, 1.0), (EventType.RATING, 5.0)]
    scores = read_events(open_dataset(log(tmp_path, 1, 5.5, 10, scale=", scale: [1, 10]")))
    assert [stars(e) for e in scores] == [
        (EventType.DISLIKE, 1.0),
        (EventType.RATING, 3.0),
        (EventType.RATING, 5.0),
    ]


def test_a_value_outside_its_scale_is_a_broken_row(tmp_path: Path) -> None:
    report = validate_dataset(open_dataset(log(tmp_path, -1, 0, 1, 2, "", scale=", scale: [0, 1]")))
    assert dict(report.broken_by_reason) == {"e.csv: v: is outside the scale 0 to 1": 2}
    assert dict(report.events_by_type) == {"dislike": 1, "rating": 2}
    assert not report.notes


@pytest.mark.parametrize(("values", "says"), [((0, 1), "no rating reaches 4 stars"), ((7, 3), "has 7 stars")])
def test_a_missing_scale_is_said(values: tuple[int, ...], says: str, tmp_path: Path) -> None:
    (note,) = validate_dataset(open_dataset(log(tmp_path, *values))).notes
    assert says in note
    assert "`scale`" in note


@pytest.mark.parametrize("scale", [", scale: [1, 1]", ", scale: [0]", ", scale: [0, 1], type: click"])
def test_scales_that_are_none(scale: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig):
        open_dataset(log(tmp_path, 1, scale=scale))


@given(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["{!r}", " {:e}", "{:.3f}"]))
def test_a_number_is_true_above_zero_however_it_is_written(number: float, style: str) -> None:
    text = style.format(number)
    assert truth(text) == (float(text) > 0)


@given(st.sampled_from(["False", "F", "no", "N", "off", "NULL", "none", "NaN", "n/a", "\\N", "-", ""]))
def test_words_are_read_in_any_case(word: str) -> None:
    assert [truth(word), truth(word.lower()), truth(f" {word.upper()} ")] == [False] * 3


@pytest.mark.parametrize("text", ["view", "inf", "-inf", "2024-01-01", "0x0", "falsch"])
def test_unknown_words_are_neither(text: str) -> None:
    with pytest.raises(ValueError):
        truth(text)
