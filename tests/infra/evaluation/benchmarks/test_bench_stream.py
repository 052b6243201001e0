"""`recsys bench stream` at a tiny size: it runs, and every event was applied once."""

import pytest

from infra.evaluation.benchmarks.stream import StreamBench, run


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.kafka
def test_it_measures_on_real_servers_and_applies_each_event_once() -> None:
    result = run(
        StreamBench(events=3_000, users=500, items=300, rate=200.0, seconds=2.0, settle_s=3.0, idle_s=1.0)
    )
    assert result.figures["not_applied_once"] == 0
    assert result.figures["probes"] > 10
    assert result.figures["idle_percent"] > 0
    assert 0 < result.figures["freshness_p50_ms"] <= result.figures["freshness_p99_ms"]
