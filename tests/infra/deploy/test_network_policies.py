"""Under deny-all, a connection needs a policy on both of its sides: who has a server's address also gets there."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from tests.infra.deploy.overlays import OVERLAYS, rendered_overlay

Policy = Mapping[str, Any]


class End(NamedTuple):
    """Of a connection. Our policies say nothing about what is in another namespace, or in none."""

    labels: Mapping[str, str]
    namespace: str = "recsys"


REDIS = End({"app": "redis"})
KAFKA = {
    "local": End({"app": "kafka"}),
    "production": End({"strimzi.io/cluster": "stream"}),
    "cuda": End({"strimzi.io/cluster": "stream"}),
}
OUTSIDE = End({}, "")
# Strimzi makes it, from its own ports and the listener of `overlays/production`.
OF_STRIMZI: Policy = {
    "podSelector": {"matchLabels": {"strimzi.io/cluster": "stream"}},
    "policyTypes": ["Ingress"],
    "ingress": [{"ports": [{"port": 9090}, {"port": 9091}, {"port": 9093}]}],
}


def policies(overlay: str) -> list[Policy]:
    return [d["spec"] for d in rendered_overlay(overlay) if d["kind"] == "NetworkPolicy"] + [OF_STRIMZI]


def may_connect(policies: Sequence[Policy], source: End, target: End, port: int) -> bool:
    return admits(policies, "Egress", source, target, port) and admits(
        policies, "Ingress", target, source, port
    )


def admits(policies: Sequence[Policy], direction: str, pod: End, other: End, port: int) -> bool:
    if pod.namespace != "recsys":
        return True
    mine = [p for p in policies if direction in p["policyTypes"] and selects(p["podSelector"], pod.labels)]
    rules = [rule for policy in mine for rule in policy.get(direction.lower(), ())]
    side = "to" if direction == "Egress" else "from"
    return not mine or any(
        port in [each["port"] for each in rule["ports"]]
        and (side not in rule or any(is_peer(peer, other) for peer in rule[side]))
        for rule in rules
    )


def is_peer(peer: Mapping[str, Any], other: End) -> bool:
    if "namespaceSelector" in peer:
        return selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})
    return other.namespace == "recsys" and selects(peer["podSelector"], other.labels)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    named = selector.get("matchLabels", {}).items() <= labels.items()
    expressions = selector.get("matchExpressions", ())
    assert all(each["operator"] == "In" for each in expressions)
    return named and all(labels.get(each["key"]) in each["values"] for each in expressions)


def workloads(overlay: str) -> Iterator[tuple[End, set[str]]]:
    """The labels of each pod, and the names of the variables that its containers set themselves."""
    for document in rendered_overlay(overlay):
        spec = document.get("spec", {})
        if document["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if document["kind"] in ("Deployment", "Job", "CronJob"):
            template = spec["template"]
            named = {e["name"] for c in template["spec"]["containers"] for e in c.get("env", ())}
            yield End(template["metadata"]["labels"]), named


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_exactly_who_has_a_servers_address_may_connect_to_it(overlay: str) -> None:
    found = list(workloads(overlay))
    assert len(found) >= 5
    for pod, variables in found:
        for target, port, variable in (
            (REDIS, 6379, "RECSYS_REDIS_URL"),
            (KAFKA[overlay], 9093, "RECSYS_KAFKA_USER"),
            (OUTSIDE, 5432, "RECSYS_DATABASE_URL"),
        ):
            assert may_connect(policies(overlay), pod, target, port) == (variable in variables), (pod, port)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_autopilot_and_api_call_other_pods_of_ours(overlay: str) -> None:
    apps = {pod.labels["app"] for pod, _ in workloads(overlay)}
    allowed = {
        (source, target)
        for source in apps
        for target in ("api", "rank")
        if may_connect(policies(overlay), End({"app": source}), End({"app": target}), 8000)
    }
    assert allowed == {("autopilot", "api")} | ({("api", "rank")} if overlay == "cuda" else set())


@pytest.mark.parametrize("overlay", ["production", "cuda"])
def test_servers_reach_their_own_and_their_operators(overlay: str) -> None:
    kafka, rules = KAFKA[overlay], policies(overlay)
    assert may_connect(rules, REDIS, REDIS, 6379)
    assert may_connect(rules, End({}, "ot-operators"), REDIS, 6379)
    for port in (9090, 9091):
        assert may_connect(rules, kafka, kafka, port)
    for port in (443, 6443):
        assert may_connect(rules, kafka, OUTSIDE, port), "brokers read their certificates from the API server"
        assert not may_connect(rules, REDIS, OUTSIDE, port)
    assert not may_connect(rules, OUTSIDE, REDIS, 6379)
