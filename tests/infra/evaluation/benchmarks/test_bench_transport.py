"""`recsys bench transport` at a small size: both processes start, answer, and give every figure."""

import pytest

from infra.evaluation.benchmarks.transport import TransportBench, run


@pytest.mark.slow
def test_the_hop_is_measured_over_both_kinds_of_sockets() -> None:
    figures = run(TransportBench(items=200, candidates=50, rounds=20)).figures
    for way in ("in_process", "uds", "tcp"):
        assert 0 < figures[f"{way}_p50_ms"] <= figures[f"{way}_p99_ms"]
    assert figures["transport_uds_ms"] == figures["uds_p50_ms"] - figures["in_process_p50_ms"]
