"""What an explained answer adds: ages, contributions, moves, removals, and when each stage began."""

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from recsys.contracts.request import Answer, Query
from recsys.features.definitions import FEATURES
from serving.engine.contribution import HISTORY, ITEM, contributions, shared_by
from tests.serving.conftest import NOW_MS, Api, click


def explained(api: Api, **body: Any) -> dict[str, Any]:
    funnel: dict[str, Any] = api.recommend(query="?explain=true", **body).json()["funnel"]
    return funnel


def test_every_shown_item_has_ages_and_contributions_of_every_feature(api: Api) -> None:
    api.apply([click("item-003"), click("item-004")])
    funnel = explained(api, k=5)
    names = {feature.name for feature in FEATURES.features}
    assert set(funnel["features"]) == names
    columns = [column for feature in funnel["features"].values() for column in feature["columns"]]
    assert columns == list(FEATURES.names)
    for shown in funnel["shown"]:
        assert set(shown["ages_ms"]) == names
        assert shown["ages_ms"]["user_seconds_since_engaged"] == 60_000
        assert set(shown["contributions"]) == names | {HISTORY, ITEM}
        assert any(shown["contributions"].values())


def test_without_the_store_ages_are_unknown_and_the_rest_is_there(api: Api) -> None:
    api.store.up = False
    shown = explained(api, k=3)["shown"]
    assert [line["ages_ms"] for line in shown] == [None] * 3
    assert all(line["contributions"] for line in shown)


def answer_of(api: Api) -> Answer:
    api.apply([click("item-003"), click("item-004")])
    runtime = api.services.host.runtime()
    assert runtime is not None
    return runtime.pipeline.answer(Query("r", "u1", k=4, now_ms=NOW_MS, explain=True))


def test_a_contribution_is_the_value_less_the_value_without_the_feature(api: Api) -> None:
    answer = answer_of(api)
    runtime = api.services.host.runtime()
    assert runtime is not None
    scorer, shown = runtime.pipeline.scorers[0], answer.candidates
    found = contributions(scorer, answer.query, shown)
    column = FEATURES.column("user_history_length")
    features = shown.features.copy()
    features[:, column] = 0  # of somebody without a history
    without = scorer.score(answer.query, replace(shown, features=features)).score
    value = scorer.score(answer.query, shown).score
    assert found["user_history_length"] == pytest.approx(value - without, abs=1e-6)
    assert np.abs(found["user_history_length"]).max() > 1e-4
    assert np.abs(found[HISTORY]).max() > 1e-4
    assert np.abs(found[ITEM]).max() > 1e-4
    # the clock is the same for everybody
    assert not found["hour"].any()


def test_reasons_are_what_differs_between_the_candidates(api: Api) -> None:
    api.apply([click("item-003"), click("item-004"), click("item-009", "u2"), click("item-009", "u3")])
    funnel = explained(api, k=5)
    shared = funnel["shared"]
    assert {"user_seconds_since_engaged", "user_history_length", "hour", HISTORY} <= set(shared)
    assert "item_clicks_1h" not in shared and ITEM not in shared
    for line in funnel["shown"]:
        # the user's recency moves the score, but it would move that of every other candidate, too
        assert abs(line["contributions"]["user_seconds_since_engaged"]) > 1e-4
        assert not set(shared) & set(line["reasons"])
        shares = line["contributions"]
        differing = {name for name, share in shares.items() if share and name not in shared}
        assert set(line["reasons"]) == differing and differing
        assert line["reasons"] == sorted(differing, key=lambda name: -abs(shares[name]))


def test_a_feature_is_shared_only_when_all_its_columns_are(api: Api) -> None:
    candidates = answer_of(api).explanation.ranked  # type: ignore[union-attr]
    ones = replace(candidates, features=np.ones_like(candidates.features))
    assert shared_by(ones) == [HISTORY, *(feature.name for feature in FEATURES.features)]
    for feature in FEATURES.features:
        differing = np.ones_like(candidates.features)
        differing[-1, FEATURES.column(feature.columns[-1])] = 2
        assert feature.name not in shared_by(replace(candidates, features=differing))


def test_moves_name_their_reason(api: Api) -> None:
    funnel = explained(api, k=10)
    for place, shown in enumerate(funnel["shown"]):
        assert shown["moved_by"] == ("" if shown["rank"] == place else "diversity")
    assert any(shown["moved_by"] for shown in funnel["shown"])
    places = {line["item_id"]: line["place"] for line in funnel["ranked"]}
    assert [places[shown["item_id"]] for shown in funnel["shown"]] == list(range(10))
    assert None in places.values()


def test_stages_say_when_they_began(api: Api) -> None:
    stages = explained(api)["stages"]
    starts = [stage["began_ms"] for stage in stages if stage["kind"] != "source"]
    assert starts == sorted(starts)
    assert all(start >= 0 for start in starts)


def test_what_was_removed_has_its_title_and_reason(api: Api) -> None:
    api.apply([click("item-003")])
    removed = explained(api, exclude=["item-007"])["removed"]["seen"]
    assert removed["excluded"]["items"] in ([], [{"item_id": "item-007", "title": "Item 7"}])
    assert removed["seen"]["count"] == len(removed["seen"]["items"])
