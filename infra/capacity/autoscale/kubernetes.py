"""Kubernetes' HorizontalPodAutoscaler as an algorithm: how it turns metrics into a number of pods.

From its documentation and the controller's source (`pkg/controller/podautoscaler`), with the controller manager's
default flags. Not simulated: metrics that are missing, and a tolerance per direction.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SYNC_S = 15  # --horizontal-pod-autoscaler-sync-period
TOLERANCE = 0.1  # --horizontal-pod-autoscaler-tolerance
_LONGEST_S = 3_600  # of a stabilisation window
_DEFAULTS: Mapping[str, Any] = {
    "scaleUp": {
        "stabilizationWindowSeconds": 0,
        "policies": [
            {"type": "Percent", "value": 100, "periodSeconds": 15},
            {"type": "Pods", "value": 4, "periodSeconds": 15},
        ],
    },
    "scaleDown": {
        "stabilizationWindowSeconds": 300,
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    },
}


def by_average(running: int, ready: int, average: float, target: float) -> int:
    """Pods that a metric of each pod wants (types Resource and Pods). `average`: over the pods that are ready."""
    ratio = average / target
    counted = ready
    if ratio > 1 and ready < running:  # pods that are not ready yet count as idle when it goes up
        ratio, counted = ratio * ready / running, running
        if ratio < 1:
            return running
    return running if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * counted)


def by_total(running: int, total: float, target: float) -> int:
    """Pods that a metric of the whole wants (type External) whose target is an average value."""
    return (
        running if running and abs(total / (target * running) - 1) <= TOLERANCE else math.ceil(total / target)
    )


@dataclass
class Autoscaler:
    """One autoscaler's memory. `spec`: of its manifest, where only the limits and `behavior` are read here."""

    spec: Mapping[str, Any]
    _wanted: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def pods(self, at_s: float, running: int, wanted: Sequence[int]) -> int:
        """The number of pods from now on. `wanted`: by each metric."""
        up, down = (self._rules(name) for name in ("scaleUp", "scaleDown"))
        desired = max(wanted)
        self._wanted = [w for w in self._wanted if at_s - w[0] < _LONGEST_S] + [(at_s, desired)]
        self._changes = [c for c in self._changes if at_s - c[0] < _LONGEST_S]
        low, high = (
            [number for at, number in self._wanted if at_s - at < rules["stabilizationWindowSeconds"]]
            for rules in (up, down)
        )
        stable = min(max(running, min([*low, desired])), max([*high, desired]))
        limited = self._limited(at_s, running, stable, up if stable > running else down)
        chosen = min(max(limited, int(self.spec["minReplicas"])), int(self.spec["maxReplicas"]))
        if chosen != running:
            self._changes.append((at_s, chosen - running))
        return chosen

    def _rules(self, name: str) -> dict[str, Any]:
        return {**_DEFAULTS[name], **self.spec.get("behavior", {}).get(name, {})}

    def _limited(self, at_s: float, running: int, desired: int, rules: Mapping[str, Any]) -> int:
        """What the policies of a direction allow; of several, the one that allows most."""
        if desired == running:
            return running
        sign = 1 if desired > running else -1
        limits = []
        for policy in rules["policies"]:
            since = at_s - policy["periodSeconds"]
            start = running - sum(n for at, n in self._changes if at > since and n * sign > 0)
            value, share = int(policy["value"]), int(policy["value"]) / 100
            if policy["type"] == "Pods":
                limits.append(start + sign * value)
            else:
                limits.append(math.ceil(start * (1 + share)) if sign > 0 else math.floor(start * (1 - share)))
        return min(desired, max(limits)) if sign > 0 else max(desired, min(limits))
