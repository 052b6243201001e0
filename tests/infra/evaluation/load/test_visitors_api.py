"""Simulated users against the real API: lists are shown, answers arrive, the log has both."""

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx

from infra.evaluation.load.visitors import Population, VisitConfig, Visits, play_day
from recsys.client import AsyncClient
from recsys.contracts.impressions import parse_impression
from recsys.contracts.types import Topic
from recsys.simulation.behavior import Behavior, BehaviorConfig
from recsys.simulation.world import WorldConfig, create_world
from tests.bundles import write_tiny_bundle
from tests.serving.conftest import NOW_MS, open_api

N_ITEMS = 200  # more than one visit can see: an empty list would be no impression


def test_a_day_of_visits_over_http(tmp_path: Path) -> None:
    world = create_world(WorldConfig(seed=2, users=60, items=N_ITEMS, new_items_per_day=0))
    released = (
        replace(world.item(row), created_ms=NOW_MS - 1) for row in range(N_ITEMS)
    )  # by the API's clock
    items = sorted(released, key=lambda item: item.item_id)
    write_tiny_bundle(tmp_path / "bundles", "v1", items)
    api = open_api(tmp_path, bundle=False)
    try:
        visits = asyncio.run(
            _play(api.client.app, Population(world, Behavior(world, BehaviorConfig(click_bias=0))))
        )
        assert visits.refused == 0
        assert not visits.degraded
        impressions = [parse_impression(raw) for raw in api.logged(Topic.IMPRESSIONS, at_least=visits.lists)]
        events = api.logged(Topic.EVENTS)
        assert len(impressions) == visits.lists >= visits.begun > 10
        assert len(events) == sum(visits.events.values()) > 20
        shown = {(i.request_id, item.item_id, item.position) for i in impressions for item in i.items}
        assert all((e["request_id"], e["item_id"], e["position"]) in shown for e in events)
        assert {e["context"]["categories"] for e in events} <= {i.categories[0] for i in items}, (
            "filled in by us"
        )
    finally:
        api.client.__exit__(None, None, None)


async def _play(app: object, population: Population) -> Visits:
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with AsyncClient("http://api", transport=transport) as client:
        return await play_day(client, population, VisitConfig(rate=20.0, day_s=1.5, k=8, reading=0.0))
