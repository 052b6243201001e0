"""The policy as manifests: they are in the repository as written, fit Kubernetes' schema, and their queries compute
what `needed` does."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from infra.capacity.autoscale.manifests import (
    PARTITIONS,
    api_policy,
    autoscaler,
    files,
    scaled,
    scaled_object,
    worker_policy,
)
from infra.capacity.autoscale.policy import needed
from infra.sizing_table import read_table

K8S = Path(__file__).parents[4] / "infra" / "deploy" / "k8s"
TABLE = read_table()


def test_the_manifests_are_written_from_the_policy() -> None:
    for path, content in files(TABLE):
        assert (K8S / path).read_text(encoding="utf-8") == content, (
            "python -m infra.capacity.autoscale.manifests infra/deploy/k8s"
        )


def test_the_partitions_are_those_of_the_deployment() -> None:
    config = (K8S / "base" / "config.yaml").read_text(encoding="utf-8")
    assert re.findall(r'RECSYS_PARTITIONS: "(\d+)"', config) == [str(PARTITIONS)]


@pytest.mark.parametrize("of", scaled(TABLE), ids=lambda of: of.name)
def test_keda_makes_an_autoscaler_that_kubernetes_accepts(of: Any) -> None:
    """KEDA's schema is not at hand; what it passes to Kubernetes is checked by Kubernetes' own."""
    spec = scaled_object(of)["spec"]
    passed = autoscaler(of)
    assert passed["spec"]["behavior"] == spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    kubernetes_validate.validate(passed, "1.33", strict=True)
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    # KEDA: with a fallback, at least one trigger that is not cpu has an average value
    assert spec["triggers"][0]["metricType"] == "AverageValue"
    assert all(isinstance(value, str) for t in spec["triggers"] for value in t["metadata"].values())


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing: apt-get install prometheus")
def test_prometheus_computes_what_the_policy_needs(tmp_path: Path) -> None:
    api, worker = scaled(TABLE)
    route = '{namespace="recsys",route="/v1/recommendations"'
    lag = 'recsys_stream_lag{namespace="recsys",'
    cases = {
        # 200 requests a second, no trend
        "steady": (api.need, [(f"recsys_http_requests_total{route}}}", "0+1000x60")]),
        # two workers' worth of events; then 20 seconds of backlog in one partition, half of it in lists of 20
        "even": (
            worker.need,
            [
                ('recsys_stream_events_total{namespace="recsys",outcome="applied"}', "0+82200x60"),
                (f'{lag}topic="events",partition="0"}}', "0x60"),
            ],
        ),
        "behind": (
            worker.need,
            [
                ('recsys_stream_events_total{namespace="recsys",outcome="applied"}', "0x60"),
                (f'{lag}topic="events",partition="0"}}', "137000x60"),
                (f'{lag}topic="impressions",partition="0"}}', "6850x60"),
                (f'{lag}topic="events",partition="1"}}', "20x60"),
            ],
        ),
        "late": (
            api.late,
            [
                (f'recsys_http_seconds_bucket{route},le="0.08"}}', "0+0x60"),
                (f'recsys_http_seconds_bucket{route},le="0.15"}}', "0+100x60"),
                (f'recsys_http_seconds_bucket{route},le="+Inf"}}', "0+100x60"),
            ],
        ),
    }
    at, samples = worker_policy(TABLE), [(0.0, 0.0)]
    expected = {
        "steady": needed(api_policy(TABLE), [(0.0, 200.0)]),
        "even": needed(at, [(0.0, 16_440.0)]),
        "behind": needed(at, samples, behind_s=(137_000 + 20 * 6_850) / at.rate),
        "late": (0.08 + 0.07 * 0.99) / 0.08,
    }
    tests = [_case(query, series, expected[name]) for name, (query, series) in cases.items()]
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "5s", "tests": tests}), encoding="utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", file], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _case(query: str, series: list[tuple[str, str]], value: float) -> Mapping[str, Any]:
    return {
        "interval": "5s",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": [
            {
                "expr": f"round({query}, 0.001)",
                "eval_time": "4m",
                "exp_samples": [{"labels": "{}", "value": round(value, 3)}],
            }
        ],
    }
