"""`recsys report energy`: figures between two scrapes of the metrics that the API really writes."""

import math

from infra.evaluation.reports.energy import Scrape, per_thousand
from recsys.energy import modelled
from serving.telemetry import Telemetry


def test_joules_of_the_requests_between_two_scrapes() -> None:
    telemetry = Telemetry()
    before = Scrape.parse(telemetry.exposition().decode())
    assert 0 < before.joules["low"] < before.joules["typical"] < before.joules["high"]
    for _ in range(4):
        telemetry.request("/v1/recommendations", "POST", 200, 0.01)
    telemetry.request("/metrics", "GET", 200, 0.01)
    after = Scrape.parse(telemetry.exposition().decode())
    assert after.requests - before.requests == 4
    more = modelled(2.0, 0.0)
    joules = {
        "low": before.joules["low"] + more.low,
        "typical": before.joules["typical"] + more.joules,
        "high": before.joules["high"] + more.high,
    }
    found = per_thousand(before, Scrape(after.requests, joules))
    assert math.isclose(found["model_typical_joules_per_1000_requests"], 1_000 * 7.0 / 4)
    assert found["model_low_joules"] < found["model_typical_joules"] < found["model_high_joules"]


def test_without_requests_there_is_no_figure_per_request() -> None:
    idle = Scrape(0.0, {"typical": 1.0, "low": 1.0, "high": 1.0})
    assert math.isnan(per_thousand(idle, idle)["model_typical_joules_per_1000_requests"])
