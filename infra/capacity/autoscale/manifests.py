"""The policy as Kubernetes' manifests: what the load needs as a Prometheus query, and how fast that is followed.

python -m infra.capacity.autoscale.manifests infra/deploy/k8s    # after a change of the policy or of sizing.yaml

KEDA's ScaledObjects (overlay `production`), and the same as HorizontalPodAutoscalers with the rules of the Prometheus
adapter (component `adapter`). One or the other: a cluster has one server of external metrics.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.capacity.autoscale.policy import Policy
from infra.sizing_table import SizingTable, read_table

LEAST, MOST_API = 2, 20
PARTITIONS = 12  # of the manifests
_MODULE = "infra.capacity.autoscale.manifests"
_OBJECTIVE_S = 0.08  # of p99 (infra/deploy/prometheus/rules.yml)
_PROMETHEUS = "http://prometheus.monitoring:9090"
_NAMESPACE = 'namespace="recsys"'
_ROUTE = f'{_NAMESPACE},route="/v1/recommendations"'
_CPU_PERCENT = 80  # a limit for where the table's rates are wrong: above what is planned with


def api_policy(table: SizingTable) -> Policy:
    """At half of what a process can do, its p99 was measured; close to all of it, no answer is in time."""
    return Policy(LEAST, MOST_API, table.measured.requests_per_s)


def worker_policy(
    table: SizingTable, least: int = LEAST, most: int = PARTITIONS, partitions: int = PARTITIONS
) -> Policy:
    """Events can wait: the share that is planned with is the table's."""
    return Policy(least, most, table.measured.events_per_s, partitions, table.utilisation)


@dataclass(frozen=True)
class Scaled:
    """A Deployment with its policy. need: PromQL, the pods that the load needs. late: p99 over its objective, at most
    2, by pod where `by` says so; empty: none is known."""

    name: str
    policy: Policy
    series: str  # that is there when the need is known
    need: str
    late: str = ""

    @property
    def behavior(self) -> Mapping[str, Any]:
        """All that is needed at once; fewer only when they were enough for the whole window."""
        any_number = [{"type": "Pods", "value": self.policy.cap, "periodSeconds": 15}]
        down_s = round(self.policy.down_after_s)
        return {
            "scaleUp": {"stabilizationWindowSeconds": 0, "policies": any_number},
            "scaleDown": {"stabilizationWindowSeconds": down_s, "policies": any_number},
        }


def scaled(table: SizingTable) -> tuple[Scaled, Scaled]:
    """The API and the workers."""
    api, worker = api_policy(table), worker_policy(table)
    requests = f"sum(rate(recsys_http_requests_total{{{_ROUTE}}}[30s]))"
    in_events = (
        f'(recsys_stream_lag{{{_NAMESPACE},topic="impressions"}} * {table.impressions_per_request}'
        f' or recsys_stream_lag{{{_NAMESPACE},topic!="impressions"}})'
    )
    done = f"sum(rate(recsys_stream_events_total{{{_NAMESPACE}}}[30s]))"
    arriving = f"({done} + clamp_min(deriv(sum({in_events})[30s:5s]), 0))"
    behind_s = f"max(sum by (partition) ({in_events})) / {worker.rate:g}"
    need = f"{_arriving(worker, arriving)} + {worker.partitions} * {behind_s} / {worker.drain_s:g}"
    each = f"clamp_min(floor({worker.partitions * (1 + worker.tolerance):g} / ({need})), 1)"
    return (
        Scaled("api", api, f"recsys_http_requests_total{{{_ROUTE}}}", _arriving(api, requests), _late()),
        Scaled("worker", worker, f"recsys_stream_lag{{{_NAMESPACE}}}", f"ceil({worker.partitions} / {each})"),
    )


def _arriving(policy: Policy, rate: str) -> str:
    """Processes for what arrives, now or by its trend."""
    trend = f"predict_linear({rate}[{policy.trend_s:.0f}s:15s], {policy.horizon_s:.0f})"
    return f"clamp_min({trend}, scalar({rate})) / {policy.rate * policy.utilisation:g}"


def _late(by: str = "") -> str:
    buckets = f"sum by (le{by}) (rate(recsys_http_seconds_bucket{{{_ROUTE}}}[1m]))"
    return f"clamp_max(histogram_quantile(0.99, {buckets}) / {_OBJECTIVE_S:g}, 2)"


def scaled_object(of: Scaled) -> dict[str, Any]:
    """For KEDA. Without Prometheus, at least half of the most, and no fewer than run."""
    triggers = [_trigger(of.need, "AverageValue")]
    if of.late:
        triggers.append(_trigger(f"({of.late} > 0) or vector(0)", "Value"))
    cpu = {"type": "cpu", "metricType": "Utilization", "metadata": {"value": str(_CPU_PERCENT)}}
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": of.name},
        "spec": {
            "scaleTargetRef": {"name": of.name},
            "pollingInterval": 15,
            "minReplicaCount": of.policy.least,
            "maxReplicaCount": of.policy.cap,
            "fallback": {
                "failureThreshold": 4,
                "replicas": max(of.policy.least, of.policy.cap // 2),
                "behavior": "currentReplicasIfHigher",
            },
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": of.behavior}},
            "triggers": [*triggers, cpu],
        },
    }


def _trigger(query: str, kind: str) -> dict[str, Any]:
    where = {"serverAddress": _PROMETHEUS, "query": query, "threshold": "1", "ignoreNullValues": "false"}
    return {"type": "prometheus", "metricType": kind, "metadata": where}


def autoscaler(of: Scaled) -> dict[str, Any]:
    """The same without KEDA. While the adapter is away, processor time alone scales up, and nothing scales down."""
    one = {"type": "AverageValue", "averageValue": "1"}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": _CPU_PERCENT}}
    metrics = [
        {"type": "External", "external": {"metric": {"name": f"recsys_{of.name}_need"}, "target": one}},
        {"type": "Resource", "resource": cpu},
    ]
    if of.late:
        late = {"metric": {"name": f"recsys_{of.name}_late"}, "target": one}
        metrics.append({"type": "Pods", "pods": late})
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": of.name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": of.name},
            "minReplicas": of.policy.least,
            "maxReplicas": of.policy.cap,
            "metrics": metrics,
            "behavior": of.behavior,
        },
    }


def adapter_rules(each: tuple[Scaled, ...]) -> dict[str, Any]:
    """Values of the chart prometheus-adapter (key `rules`): where the metrics of `autoscaler` come from."""
    resources = {"namespace": {"resource": "namespace"}}
    per_pod = resources | {"pod": {"resource": "pod"}}
    rules = {
        "rules": [
            {
                "seriesQuery": of.series.replace("{", '{pod!="",'),
                "resources": {"overrides": per_pod},
                "name": {"as": f"recsys_{of.name}_late"},
                "metricsQuery": _late(by=", namespace, pod"),
            }
            for of in each
            if of.late
        ],
        "externalRules": [
            {
                "seriesQuery": of.series,
                "resources": {"overrides": resources},
                "name": {"as": f"recsys_{of.name}_need"},
                "metricsQuery": of.need,
            }
            for of in each
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "prometheus-adapter-rules"},
        "data": {"config.yaml": _text([rules])},
    }


def files(table: SizingTable) -> Iterator[tuple[Path, str]]:
    """Path below infra/deploy/k8s, content."""
    each = scaled(table)
    written = f"# Written by `python -m {_MODULE} infra/deploy/k8s`: change the policy or sizing.yaml.\n"
    for path, documents in (
        ("overlays/production/keda.yaml", [scaled_object(of) for of in each]),
        ("components/adapter/autoscalers.yaml", [autoscaler(of) for of in each]),
        ("components/adapter/rules.yaml", [adapter_rules(each)]),
    ):
        yield Path(path), written + _text(documents)


class _Dumper(yaml.SafeDumper):
    """Without anchors, and texts of several lines as such."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _string)


def _text(documents: list[dict[str, Any]]) -> str:
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=1_000)


if __name__ == "__main__":
    for path, content in files(read_table()):
        (Path(sys.argv[1]) / path).write_text(content, encoding="utf-8")
