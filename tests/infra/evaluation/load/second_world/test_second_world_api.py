"""A simulator's users against the real API: what it logs is what they did."""

import asyncio
import sys
from pathlib import Path

import httpx

from infra.evaluation.load.second_world.visitors import Day, Pace, Visits
from infra.evaluation.load.second_world.world import ForeignWorld, item_id
from recsys.client import AsyncClient
from recsys.contracts.impressions import parse_impression
from recsys.contracts.types import Item, Topic
from tests.bundles import write_tiny_bundle
from tests.infra.evaluation.load.second_world.test_second_world import FAKE, PRODUCTS, USERS
from tests.serving.conftest import NOW_MS, open_api


def test_the_log_has_views_and_clicks_that_name_their_list(tmp_path: Path) -> None:
    items = [Item(item_id(product), created_ms=NOW_MS - 1) for product in range(PRODUCTS)]
    write_tiny_bundle(tmp_path / "bundles", "v1", items)
    api = open_api(tmp_path, bundle=False)
    try:
        visits = asyncio.run(_play(api.client.app))
        assert visits.refused == 0
        assert len(visits.seconds) == 3 * len(USERS)
        impressions = [
            parse_impression(raw) for raw in api.logged(Topic.IMPRESSIONS, at_least=3 * len(USERS))
        ]
        shown = {(each.request_id, each.user_id, each.items[0].item_id) for each in impressions}
        assert all(len(each.items) == 1 for each in impressions)
        events = api.logged(Topic.EVENTS)
        assert sum(event["type"] == "view" for event in events) == 4 * len(USERS)
        clicks = [event for event in events if event["type"] == "click"]
        assert len(clicks) == sum(played.clicks for played in visits.played.values()) > 0
        assert {(e["request_id"], e["user_id"], e["item_id"]) for e in clicks} <= shown
    finally:
        api.client.__exit__(None, None, None)


async def _play(app: object) -> Visits:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    with ForeignWorld(Path(sys.executable), PRODUCTS, 0, FAKE) as world:
        async with AsyncClient("http://api", transport=transport) as client:
            pace = Pace(NOW_MS - 3_600_000, 60_000, speed=1e6)
            return await Day(client, world, pace, "second-world").play(USERS, seed=0)
