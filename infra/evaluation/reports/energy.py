"""`recsys report energy`: joules per 1,000 requests of a running API by its metrics, and of the machine meanwhile."""

import time
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from recsys.contracts.errors import Unavailable
from recsys.energy import nvml, rapl
from recsys.result import Result

_SCRAPES = 20  # each over a connection of its own, so that every process of the API sets its figures
_LISTS = "/v1/recommendations"


@dataclass(frozen=True)
class Scrape:
    """Totals so far: answered requests for lists, and joules by bound."""

    requests: float
    joules: dict[str, float]

    @classmethod
    def parse(cls, text: str) -> "Scrape":
        """From Prometheus' text format."""
        requests, joules = 0.0, dict.fromkeys(("typical", "low", "high"), 0.0)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "recsys_http_requests_total" and sample.labels["route"] == _LISTS:
                    requests += sample.value
                if sample.name == "recsys_process_energy_joules":
                    joules[sample.labels["bound"]] += sample.value
        return cls(requests, joules)


def report(url: str, key: str, seconds: float) -> Result:
    """What the API and the machine took during the next `seconds`; per request: nan without one.

    Raises:
        Unavailable: the API does not answer, or not without another key.
    """
    meter, devices = rapl(), nvml()
    before = _scraped(url, key)
    time.sleep(seconds)
    after = _scraped(url, key)
    figures = per_thousand(before, after)
    if meter is not None:
        figures["rapl_machine_joules"] = meter.read().joules
    if devices is not None and (now := nvml()) is not None:
        figures["nvml_devices_joules"] = now.joules - devices.joules
    return Result("report energy", 0, figures)


def per_thousand(before: Scrape, after: Scrape) -> dict[str, float]:
    """Figures of the requests between two scrapes."""
    requests = after.requests - before.requests
    figures = {"requests": requests}
    for bound, joules in after.joules.items():
        used = joules - before.joules[bound]
        figures[f"model_{bound}_joules"] = used
        figures[f"model_{bound}_joules_per_1000_requests"] = (
            1_000 * used / requests if requests else float("nan")
        )
    return figures


def _scraped(url: str, key: str) -> Scrape:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    text = ""
    for _ in range(_SCRAPES):
        try:
            answer = httpx.get(f"{url.rstrip('/')}/metrics", headers=headers, timeout=10)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(
                f"{url}/metrics: {error}; start `recsys serve`, or give --api and --key"
            ) from error
        text = answer.text
    return Scrape.parse(text)
