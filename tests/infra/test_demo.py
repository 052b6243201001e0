"""The demo's own decisions; the loop that it runs is tested in tests/e2e/test_loop.py."""

from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

import pytest

from infra import demo
from infra.demo import click_and_watch
from infra.loop import LIST_LENGTH, Api, Outcome, epochs
from recsys.contracts.errors import Unavailable


@pytest.mark.parametrize(
    ("events", "passes"), [(100_000, "8"), (125_001, "7"), (900_000, "1"), (10**9, "1"), (0, "8")]
)
def test_large_logs_get_fewer_epochs(events: int, passes: str) -> None:
    assert epochs(events)[:2] == ("--recall-epochs", passes)


class _Answers(Api):
    """Returns these lists, then the last one repeatedly."""

    def __init__(self, *lists: str) -> None:
        super().__init__("http://nowhere")
        object.__setattr__(self, "lists", chain(lists, repeat(lists[-1])))
        object.__setattr__(self, "sent", [])

    def recommend(self, user: str, k: int = LIST_LENGTH) -> list[dict[str, Any]]:
        shown: str = next(self.lists)  # type: ignore[attr-defined]
        return [{"item_id": item, "categories": ["vowel" if item in "aeiou" else "other"]} for item in shown]

    def send(self, events: Sequence[Any]) -> None:
        self.sent.extend(events)  # type: ignore[attr-defined]


def test_three_items_of_one_category_are_clicked_and_the_first_other_list_counts() -> None:
    api, outcome = _Answers("abecdxi", "abecdxi", "ioabecd", "zzz"), Outcome()
    click_and_watch(api, "u", outcome)
    assert [event["item_id"] for event in api.sent] == ["b", "c", "d"]  # type: ignore[attr-defined]
    assert "".join(item["item_id"] for item in outcome.after) == "ioabecd"


def test_an_unchanged_list_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CHANGE_TIMEOUT_S", 0.05)
    with pytest.raises(Unavailable, match="the list is the same"):
        click_and_watch(_Answers("abc"), "u", Outcome())
