"""The rows of the case study: what was promised, our goal, and what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Promise:
    """One promised row. Changes are relative: -0.84 is 84 % less, 9.0 is ten times as much."""

    row: str
    promised: float
    ours: float
    what: str


PROMISES = (
    Promise("response_time", -0.84, -0.95, "mean at equal load"),
    Promise("response_time_p99", -0.84, -0.95, "p99 at equal load"),
    Promise("throughput", 9.0, 24.0, "requests per second with p99 within the limit"),
    Promise("model_size", -0.90, -0.95, "bytes that serving loads for ranking"),
    Promise("memory", -0.75, -0.80, "RSS of a serving process under load"),
    Promise("ctr", 0.15, 0.15, "simulated A/B"),
    Promise("cvr", 0.10, 0.10, "simulated A/B"),
    Promise("dwell", 0.20, 0.20, "simulated A/B"),
    Promise("diversity", 0.25, 0.25, "simulated A/B"),
    Promise("hardware_cost", -0.40, -0.90, "per million requests, by a price table"),
    Promise("compute", -0.50, -0.90, "CPU-seconds per 1 000 requests"),
    Promise("training_compute", -0.50, -0.50, "CPU-seconds per training run"),
    Promise("storage", -0.30, -0.80, "bytes per million events in the lake"),
    Promise("storage_online", -0.30, -0.80, "bytes per item and user online"),
    Promise("network", -0.25, -0.60, "bytes per request on the wire, Redis and Kafka included"),
    Promise("network_update", -0.25, -0.60, "bytes per model update"),
)


# row of effect → its metric in an experiment
EFFECT_METRICS = {"ctr": "ctr", "cvr": "cvr", "dwell": "dwell_per_session_s", "diversity": "list_distance"}


@dataclass(frozen=True)
class Measured:
    """Before and after of one row in one unit, and how it was found. A `part` does not stand for its row.

    interval: 95 % of the change, where it is estimated from a sample. exact: the same seed gives the same figures.
    """

    row: str
    before: float
    after: float
    unit: str
    how: str
    part: str = ""
    interval: tuple[float, float] | None = None
    simulated: bool = False
    exact: bool = False

    @property
    def change(self) -> float:
        return self.after / self.before - 1

    def met(self, promise: Promise) -> bool:
        """Whether our goal is reached; less is better where less was promised. An interval must also exclude the
        promise."""
        sign = 1 if promise.ours > 0 else -1
        worst = min((sign * end for end in self.interval), default=0.0) if self.interval else None
        return sign * self.change >= sign * promise.ours and (
            worst is None or worst > sign * promise.promised
        )


def table(measured: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Every promised row, with what was measured or null: a missing row cannot look like one that is met."""
    rows = []
    for promise in PROMISES:
        found = measured.get(promise.row)
        columns = ("before", "after", "unit", "change", "interval", "simulated", "exact")
        rows.append(
            {
                "row": promise.row,
                "what": promise.what,
                "promised": promise.promised,
                "ours_at_least": promise.ours,
                **{column: getattr(found, column, None) for column in columns},
                "met": found.met(promise) if found else None,
                "how": found.how if found else "not measured",
            }
        )
    return rows
