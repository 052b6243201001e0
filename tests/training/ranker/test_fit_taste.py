"""Taste is found where users differ, and weighs nothing where they do not, or where it misleads."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from recsys.contracts.types import Item
from recsys.features.aggregates import bucket_of, looks_at
from recsys.features.definitions import FEATURES
from training.ranker import fit_taste as fit_taste_module
from training.ranker.fit_taste import Fitted, TasteOffsets, fit_taste, newest_days
from training.ranker.taste_rows import ItemCategories, looks, sameness

KINDS = ["war", "love", "crime", "space"]
ITEMS = [Item(f"i{n}", categories=(KINDS[n % 4],)) for n in range(40)]
LOOKS = FEATURES.column("item_looked_by_user_decay7d")
DWELL = [FEATURES.column(name) for name in ("item_dwells_ever", "item_mean_log_dwell_ever")]
# log odds of a user's click on a category, after clicks and looks so far in it
Response = Callable[[int, int, float, float], float]


def log_of(response: Response, users: int = 150, lists: int = 12, k: int = 6, seed: int = 0) -> pa.Table:
    """Examples of lists in the order of time, with the tallies as of then."""
    rng = np.random.default_rng(seed)
    tally: dict[int, dict[int, list[int]]] = defaultdict(dict)
    clicked_in: dict[tuple[int, int], int] = defaultdict(int)
    rows: list[dict[str, object]] = []
    for n in range(lists):
        for user in range(users):
            known = sorted(tally[user].items())
            same: dict[int, float] = defaultdict(float)
            seen: list[tuple[int, int, bool]] = []
            for position, item in enumerate(rng.choice(len(ITEMS), k, replace=False).tolist()):
                kind, look = item % 4, looks_at(position) / 1000
                odds = response(user, kind, clicked_in[user, kind], same[kind])
                click = bool(rng.random() < look / (1 + np.exp(-odds)))
                same[kind] += look
                seen.append((kind, looks_at(position), click))
                bought = click and bool(rng.random() < 1 / (1 + np.exp(2 - 0.15 * item)))
                rows.append(example(user, item, n, position, click, bought, known))
            for kind, thousandths, click in seen:
                counts = tally[user].setdefault(bucket_of(KINDS[kind]), [0, 0])
                counts[0] += thousandths
                counts[1] += click
                clicked_in[user, kind] += click
    return pa.Table.from_pylist(rows)


def example(
    user: int, item: int, n: int, position: int, click: bool, bought: bool, known: list[tuple[int, list[int]]]
) -> dict[str, object]:
    features = np.full(FEATURES.dimension, 0.4, np.float32)
    features[[LOOKS, *DWELL]] = 0.0, 20.0, 10.0 + item / 10
    return {
        "user_id": f"u{user}",
        "item_id": f"i{item}",
        "request_id": f"r{user}-{n}",
        "event_time_ms": 1_000 * n + 1,
        "position": position,
        "click": int(click),
        "conversion": int(bought),
        "sampled": False,
        "features": features.tobytes(),
        "tally_buckets": [bucket for bucket, _ in known],
        "tally_looks": [counts[0] for _, counts in known],
        "tally_clicks": [counts[1] for _, counts in known],
    }


TASTES = np.random.default_rng(1).normal(size=(150, 4))
TASTES[:, 1] = 0.9 * TASTES[:, 0] + 0.4 * TASTES[:, 1]  # who likes war likes love


def fitted(response: Response) -> Fitted:
    found = fit_taste(log_of(response), ITEMS, seed=0)
    assert found is not None
    assert found.rows == 150 * 12 * 6
    return found


def test_it_finds_how_tastes_go_together_and_what_sameness_costs() -> None:
    found = fitted(lambda user, kind, clicks, same: -1 + 1.2 * TASTES[user, kind] - 0.6 * same)
    assert found.loss_with < found.loss_without - 0.01
    taste = found.taste
    assert 0.7 < taste.taste < 1.3
    assert -0.9 < taste.sameness < -0.3
    assert sorted(taste.categories) == ["", *sorted(KINDS)]
    covariance = np.array(taste.covariance)
    place = [taste.categories.index(kind) for kind in KINDS]
    correlation = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    assert correlation[place[0], place[1]] > 0.6
    assert abs(correlation[place[0], place[2]]) < 0.4


@pytest.mark.parametrize(
    "response",
    [
        lambda user, kind, clicks, same: -1.0,
        lambda user, kind, clicks, same: -0.5 - 0.8 * clicks,
        lambda user, kind, clicks, same: -1 + 1.5 * TASTES[user, 0],
        lambda user, kind, clicks, same: -0.5 + 2 * TASTES[user, 0] - 0.8 * clicks,
    ],
    ids=["all alike", "had enough", "some click a lot", "some click a lot, until they have had enough"],
)
def test_a_taste_that_does_not_help_weighs_nothing(response: Response) -> None:
    assert fitted(response).taste.taste == 0.0


def test_conversions_follow_how_long_an_item_is_read() -> None:
    weights = fitted(lambda user, kind, clicks, same: 0.5).taste.conversion
    assert 0.8 * 1.5 < weights["read_for"] * 20 / 24 < 1.2 * 1.5
    table = log_of(lambda user, kind, clicks, same: 0.5, lists=4)
    nothing = with_column(table, "conversion", np.zeros(len(table), np.int8))
    untaught = fit_taste(nothing, ITEMS, 0)
    assert untaught is not None
    assert untaught.taste.conversion == {}


def test_sameness_never_rewards() -> None:
    assert fitted(lambda user, kind, clicks, same: -1 + 0.6 * same).taste.sameness == 0.0


def test_offsets_know_no_more_than_the_row_did() -> None:
    table = log_of(lambda user, kind, clicks, same: -1 + 1.2 * TASTES[user, kind])
    found = fit_taste(table, ITEMS, seed=0)
    assert found is not None
    offsets = TasteOffsets(found.taste, ITEMS)(table)[:, 0]
    first = np.flatnonzero(np.asarray(table["event_time_ms"]) == 1)
    kinds = np.array([int(item_id[1:]) % 4 for item_id in table["item_id"].to_pylist()])
    for kind in range(4):  # before anything was clicked, all users are alike
        assert np.ptp(offsets[first][kinds[first] == kind]) == 0
    last = np.flatnonzero(np.asarray(table["event_time_ms"]) == 11_001)
    users = np.array([int(user_id[1:]) for user_id in table["user_id"].to_pylist()])
    truth = TASTES[users[last], kinds[last]]
    assert np.corrcoef(offsets[last], truth)[0, 1] > 0.5
    shuffled = np.random.default_rng(0).permutation(len(table))
    np.testing.assert_array_equal(
        TasteOffsets(found.taste, ITEMS)(table.take(shuffled))[:, 0], offsets[shuffled]
    )


def test_logs_without_clicks_or_lists_have_no_taste() -> None:
    table = log_of(lambda user, kind, clicks, same: -1.0, lists=3)
    assert fit_taste(with_column(table, "click", np.zeros(len(table), np.int8)), ITEMS, 0) is None
    assert fit_taste(with_column(table, "sampled", np.ones(len(table), bool)), ITEMS, 0) is None
    assert fit_taste(table.slice(0, 0), ITEMS, 0) is None
    empty = with_column(table, "tally_buckets", pa.array([[]] * len(table), pa.list_(pa.int64())))
    for name in ("tally_looks", "tally_clicks"):
        empty = with_column(empty, name, pa.array([[]] * len(table), pa.list_(pa.int64())))
    assert fit_taste(empty, ITEMS, 0) is None, "examples of ratings"


def with_column(table: pa.Table, name: str, values: NDArray[np.generic] | pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_sameness_counts_looks_at_earlier_items_of_the_list() -> None:
    requests = pa.chunked_array([["a", "a", "a", "b", None, None]])
    kinds, positions = np.array([1, 1, 1, 1, 1, 1]), np.array([2, 0, 1, 5, 0, 1])
    looked_at = looks(pa.chunked_array([positions]))
    found = sameness(requests, kinds, positions, looked_at)
    np.testing.assert_allclose(found, [1.631, 0.0, 1.0, 0.0, 0.0, 0.0])


def test_unknown_items_and_items_without_a_category_belong_to_the_rest() -> None:
    items = ItemCategories([Item("a", categories=("war", "love")), Item("b")])
    place = items.place(pa.chunked_array([["b", "a", "gone", "a"]]))
    assert place.tolist() == [1, 0, 2, 0]
    assert items.largest(place) == ["war", ""]
    assert (items.buckets[1] == items.buckets[2]).all()


def test_of_a_long_log_only_the_newest_training_days_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_taste_module, "_ROWS", 25)
    for day, n in (("2026-01-01", 40), ("2026-01-02", 20), ("2026-01-03", 20), ("2026-01-04", 20)):
        (tmp_path / f"dt={day}").mkdir()
        pq.write_table(pa.table({"x": range(n)}), tmp_path / f"dt={day}" / "part.parquet")
    # the oldest 70 of 100; of these the newest 25: from row 45 on
    assert newest_days(tmp_path, 0.7) == (["2026-01-02", "2026-01-03"], 5, 25)
    monkeypatch.setattr(fit_taste_module, "_ROWS", 1_000)
    assert newest_days(tmp_path, 0.9) == (["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"], 0, 90)
    assert newest_days(tmp_path / "none", 0.9) == (None, 0, 0)
