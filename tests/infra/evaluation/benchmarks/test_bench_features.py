"""Feature benchmarks at a tiny size, on real servers and Spark: what must be equal is equal."""

import pytest

from infra.evaluation.benchmarks import batch, features, parity


@pytest.mark.redis
def test_reads_in_three_layouts() -> None:
    result = features.run(
        features.FeatureBench(events=2_000, users=40, items=300, candidates=50, reads=20, days=2)
    )
    figures = result.figures
    assert 0 < figures["ours_p50_ms"] <= figures["ours_p99_ms"]
    assert figures["cells_of_a_user_p50"] > 10
    assert min(figures["hgetall_p50_ms"], figures["json_mget_p50_ms"]) > 0


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.redis
@pytest.mark.kafka
def test_stream_and_batch_and_brute_force_give_the_same_bits() -> None:
    result = parity.run(
        parity.ParityBench(
            events=1_500,
            users=30,
            items=25,
            segments=2,
            requests=4,
            lines=10,
            sampled=15,
            duplicates=0.1,
            buckets=2,
        )
    )
    figures = result.figures
    mismatching = {name: n for name, n in figures.items() if name.startswith("mismatching")}
    assert set(mismatching.values()) == {0}, mismatching
    assert figures["lines_logged"] == figures["lines_served"] == 2 * 4 * 10
    assert figures["duplicates_sent"] > 0
    assert min(n for name, n in figures.items() if name.startswith("compared")) > 0


@pytest.mark.slow
@pytest.mark.spark
def test_the_job_is_measured_at_each_scale() -> None:
    result = batch.run(batch.BatchBench(events=600, users=20, items=20, days=2, buckets=2, memory="1g"))
    figures = result.figures
    assert figures["events_4x"] == 4 * figures["events_1x"] == 4 * 600
    assert figures["examples_4x"] > figures["examples_1x"] > 0
    assert min(figures["cpu_s_1x"], figures["memory_mib_1x"]) > 0
