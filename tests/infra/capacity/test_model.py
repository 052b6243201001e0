"""The sizing calculator: arithmetic by hand, and its samples against what is really stored."""

from pathlib import Path

import pytest

from infra.capacity.model import Load, Unit, as_mapping, event_bytes, plan
from infra.capacity.size_process import measure, predict
from infra.sizing_table import SizingTable, read_table
from recsys.contracts.errors import InvalidConfig

UNIT = Unit(redis=1e9, api_process=500e6, event_in_log=300, event_in_lake=50)


def table(**changes: object) -> SizingTable:
    return SizingTable.model_validate({**read_table().model_dump(), **changes})


def test_the_arithmetic_by_hand() -> None:
    figures = table(
        measured={"requests_per_s": 100, "events_per_s": 10_000},
        utilisation=0.5,
        peak_factor=2,
        impressions_per_request=10,
        kafka_days=2,
        kafka_replicas=3,
        lake_days=10,
        redis_headroom=1.5,
        redis_replicas=2,
        prices={"core": 10, "memory_gib": 0, "disk_gib": 0, "object_gib": 0},
    )
    found = plan(Load(qps=1_000, users=1_000, items=100, events_per_day=86_400 * 1_000), figures, UNIT)
    assert found.api_processes == 20  # 1,000 / (100 · ½)
    assert found.events_per_s_at_peak == pytest.approx(12_000)  # 2 · (1,000 + 500 · 10)
    assert found.worker_processes == 3  # 12,000 / (10,000 · ½), rounded up
    assert found.partitions == 16  # four a worker, a power of two
    assert found.redis_bytes == pytest.approx(3e9)
    assert found.kafka_bytes == pytest.approx(86_400 * 6_000 * 2 * 300 * 3)
    assert found.lake_bytes == pytest.approx(86_400 * 6_000 * 10 * 50)
    assert found.cores == pytest.approx(20 + 3 + 1 + 3 + 3)
    assert found.cost == pytest.approx(300)


def test_a_small_load_still_survives_one_dead_process() -> None:
    found = plan(Load(1, 100, 100, 1_000), table(), UNIT)
    assert (found.api_processes, found.worker_processes) == (2, 2)
    assert as_mapping(found)["api_memory_bytes"] == 500_000_000


def test_a_sample_of_events_is_as_large_as_many() -> None:
    sampled, stored = event_bytes(seed=0), event_bytes(seed=1, sample=30_000)
    assert sampled == pytest.approx(stored, rel=0.25)


@pytest.mark.slow
def test_the_predicted_memory_of_a_process_is_within_a_quarter_of_the_measured() -> None:
    assert predict(40_000) == pytest.approx(measure(40_000, rank=64), rel=0.25)


@pytest.mark.slow
def test_a_linear_part_takes_memory() -> None:
    """Per item and rank: two floats in the bundle's arrays, one in the index and one in its copy of the vectors."""
    more = measure(12_000, rank=128) - measure(12_000, rank=0)
    assert more == pytest.approx(12_000 * 128 * 4 * 4, rel=0.25)


def test_a_table_with_a_hole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="copy"):
        read_table(tmp_path / "none.yaml")
    (tmp_path / "table.yaml").write_text("prices: {core: 1}")
    with pytest.raises(InvalidConfig, match="measured"):
        read_table(tmp_path / "table.yaml")
