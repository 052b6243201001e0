"""Lists in pages: no item twice, whatever happens between two pages; cursors that are not good are told why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidConfig
from serving.api.cursors import MAX_SHOWN, Cursors, cursor_key
from serving.problems import Problem
from tests.bundles import tiny_items
from tests.serving.conftest import NOW_MS, Api, click

ALL = {item.item_id for item in tiny_items()}


def pages(api: Api, k: int, between: Callable[[list[str]], None] = lambda page: None) -> list[list[str]]:
    """Every page until there is no cursor."""
    found: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        answer = api.recommend(k=k, cursor=cursor).json()
        found.append([item["item_id"] for item in answer["items"]])
        cursor = answer.get("cursor")
        between(found[-1])
    return found


def test_pages_show_every_item_once_and_then_end(api: Api) -> None:
    found = pages(api, k=7)
    shown = [item for page in found for item in page]
    assert len(shown) == len(set(shown))
    assert set(shown) == ALL
    assert [len(page) for page in found] == [7] * 5 + [5]


def test_the_first_page_is_the_list_that_there_is_without_pages(api: Api) -> None:
    assert pages(api, k=7)[0] == api.list_of(k=7)
    assert "cursor" not in api.recommend(k=7).json()


def test_a_page_never_repeats_an_item_though_the_user_and_the_bundle_change_in_between(api: Api) -> None:
    from tests.bundles import write_tiny_bundle

    write_tiny_bundle(api.services.settings.bundles, "v2", seed=5, current=False)
    turn = iter(range(100))

    def change(page: list[str]) -> None:
        n = next(turn)
        if n == 0:
            api.apply([click(page[0])])
        if n == 1:
            api.services.host.publish("v2")

    shown = [item for page in pages(api, k=6, between=change) for item in page]
    assert len(shown) == len(set(shown))
    assert len(shown) > 30


def test_excluded_items_stay_out_of_every_page(api: Api) -> None:
    first = api.recommend(k=5, cursor="", exclude=["item-003"]).json()
    rest = api.recommend(k=200, cursor=first["cursor"], exclude=["item-003"]).json()
    assert "item-003" not in [item["item_id"] for item in first["items"] + rest["items"]]


def test_a_cursor_is_good_in_every_process_that_has_the_key(
    make_api: Callable[..., Api], tmp_path: Path
) -> None:
    first, second = make_api(cursor_key=tmp_path / "key"), make_api(bundle=False, cursor_key=tmp_path / "key")
    page = first.recommend(k=5, cursor="").json()
    after = second.recommend(k=5, cursor=page["cursor"]).json()
    assert not {i["item_id"] for i in page["items"]} & {i["item_id"] for i in after["items"]}


@pytest.mark.parametrize(
    ("cursor", "says"),
    [("x", "not one that this API"), ("!!!", "not one that this API"), ("A" * 200, "not one that this API")],
)
def test_forged_cursors_are_422(api: Api, cursor: str, says: str) -> None:
    response = api.recommend(cursor=cursor)
    assert response.status_code == 422
    assert says in response.json()["detail"]
    assert response.headers["content-type"] == "application/problem+json"


def test_altered_cursors_and_those_of_another_user_are_422_and_old_ones_410(api: Api) -> None:
    good = api.recommend(k=5, cursor="").json()["cursor"]
    for place in (1, good.index(".") + 1):  # in the content, in the signature
        altered = good[:place] + ("a" if good[place] != "a" else "b") + good[place + 1 :]
        assert api.recommend(k=5, cursor=altered).status_code == 422
    other = api.recommend("somebody-else", k=5, cursor=good)
    assert other.status_code == 422
    assert "another user" in other.json()["detail"]
    api.services.request_path.now_ms = lambda: NOW_MS + 3_600_001
    old = api.recommend(k=5, cursor=good)
    assert old.status_code == 410
    assert "start again" in old.json()["detail"]
    assert old.json()["title"] == "Gone"


def test_a_list_that_has_shown_too_much_ends() -> None:
    cursors = Cursors(b"k" * 32, 1_000)
    assert cursors.make("u", ["i"] * MAX_SHOWN, 0) is not None
    assert cursors.make("u", ["i"] * (MAX_SHOWN + 1), 0) is None


def test_the_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "cursor.key"
    key = cursor_key(path)
    assert len(key) == 32
    assert cursor_key(path) == key
    assert path.stat().st_mode & 0o077 == 0
    assert list(path.parent.iterdir()) == [path]
    path.write_bytes(b"short")
    with pytest.raises(InvalidConfig, match="remove the file"):
        cursor_key(path)


def test_another_key_does_not_open_it() -> None:
    cursor = Cursors(b"k" * 32, 1_000).make("u", ["i"], 0)
    assert cursor is not None
    assert Cursors(b"k" * 32, 1_000).shown(cursor, "u", 500) == ("i",)
    with pytest.raises(Problem):
        Cursors(b"l" * 32, 1_000).shown(cursor, "u", 500)
