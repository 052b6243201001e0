"""The evidence of a running system: examples and lake on disk, the shadow's report and the metrics of the API."""

import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import structlog
from prometheus_client.parser import text_string_to_metric_families

from recsys.contracts.errors import InvalidData, Unavailable
from recsys.experiments.guardrails import Requests, request_guardrails, shadow_problems, user_guardrails
from recsys.experiments.outcomes import outcomes_by_day
from recsys.experiments.release import CANARY, CONTROL, Check, Look, Mirrored, Release, experiment_of
from recsys.settings import Settings

_log = structlog.get_logger(__name__)
SECONDS, DEGRADED = "recsys_release_seconds", "recsys_release_degraded"
_TIMEOUT_S = 10.0
_SHARE = 10.0  # reading the lake takes at most one tenth of the time

_Counts = Counter[tuple[str, str]]  # arm, and what: an upper bound in seconds, or `degraded`


class LiveEvidence:
    """`infra.release.controller.Evidence`. `apis`: addresses whose counts are added up; the first answers for the
    shadow."""

    def __init__(
        self,
        settings: Settings,
        apis: Sequence[str],
        key: str = "",
        transport: httpx.BaseTransport | None = None,
        every_s: float = 10.0,
    ) -> None:
        """`every_s`: time between two looks at a canary, at least."""
        self._settings = settings
        self._apis = apis
        self._every_s = every_s
        headers = {"x-api-key": key} if key else {}
        self._client = httpx.Client(timeout=_TIMEOUT_S, headers=headers, transport=transport)
        self._stage = ""  # of the counts
        self._last: dict[str, _Counts] = {}  # by API
        self._counted: _Counts = Counter()
        self._looked: tuple[str, Look] | None = None  # of this experiment
        self._next_s = 0.0

    def close(self) -> None:
        self._client.close()

    def checks(self, release: Release) -> tuple[Check, ...]:
        from training.evaluation.release_gate import GateConfig, main  # torch: only while it is needed

        settings = self._settings
        return main(
            GateConfig(
                candidate=settings.bundles / release.version,
                serving=settings.bundles / release.serving,
                examples=settings.features / "examples",
                keys=settings.bundle_keys,
            )
        )

    def mirrored(self, release: Release) -> Mirrored | None:
        try:
            bundles = self._json("/v1/bundles")["bundles"]
            report = self._json("/v1/bundles/shadow")
        except Unavailable as error:
            _log.warning("no evidence of the shadow", reason=str(error))
            return None
        now_ms = _now_ms()
        for bundle in bundles:
            if bundle["version"] == release.version and bundle["refused"]:
                return Mirrored(now_ms, 1 << 30, (f"the API refuses it: {bundle['refused']}",))
        if (report["shadow"], report["active"]) != (release.version, release.serving):
            return None
        requests = report["requests"] + report["failed"]
        problems = shadow_problems(
            requests,
            report["failed"],
            report["ms_mean"],
            report["shadow_ms_mean"],
            report["distinct_items"],
            report["shadow_distinct_items"],
        )
        return Mirrored(now_ms, requests, problems)

    def look(self, release: Release) -> Look | None:
        """The last look while it is too young: reading the lake takes at most a tenth of the time."""
        experiment, began = experiment_of(release), time.monotonic()
        if experiment is None:
            return None
        if began < self._next_s and self._looked is not None and self._looked[0] == experiment.name:
            return self._looked[1]
        try:
            p = self._requests(experiment.name)
            users, of_users = _users(self._settings.lake, experiment.name)
        except Unavailable as error:
            _log.warning("no evidence of the canary", reason=str(error))
            return None
        self._next_s = began + max(self._every_s, _SHARE * (time.monotonic() - began))
        look = Look(_now_ms(), release.stage, users, {**p, **of_users})
        self._looked = experiment.name, look
        return look

    def _requests(self, stage: str) -> dict[str, float]:
        """The guardrails of the requests since this stage was first looked at."""
        if stage != self._stage:
            self._stage, self._last, self._counted = stage, {}, Counter()
        for api, now in self._scrapes().items():
            last = self._last.get(api, now)
            # a restarted API counts from zero
            self._counted.update({k: n - last[k] if n >= last[k] else n for k, n in now.items()})
            self._last[api] = now
        arms = [_requests_of(self._counted, arm) for arm in (CONTROL, CANARY)]
        return request_guardrails(*arms)

    def _scrapes(self) -> dict[str, _Counts]:
        """What each API counts. Raises `Unavailable`: none of them answers."""
        found: dict[str, _Counts] = {}
        for url in self._apis:
            with _left_out():
                for api in addresses(url):
                    with _left_out():
                        found[api] = counts(self._get(api, "/metrics").text)
        if not found:
            raise Unavailable(f"none of {', '.join(self._apis)} answers")
        return found

    def _json(self, path: str) -> Any:
        return self._get(self._apis[0], path).json()

    def _get(self, api: str, path: str) -> httpx.Response:
        try:
            return self._client.get(f"{api}{path}").raise_for_status()
        except httpx.HTTPError as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise Unavailable(f"{api}{path}: {reason}") from error


@contextmanager
def _left_out() -> Iterator[None]:
    """An API that is away is not counted: others may answer."""
    try:
        yield
    except Unavailable as error:
        _log.warning("an API does not answer; its requests are not counted", reason=str(error))


def addresses(url: str) -> list[str]:
    """The URL, or one URL for each address of its host where there are several, such as the pods of a headless service:
    their counts must not be mixed up.
    Raises `Unavailable`: the host has none."""
    parsed = httpx.URL(url)
    try:
        found = socket.getaddrinfo(parsed.host, parsed.port or parsed.scheme, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Unavailable(f"{url}: {error}") from error
    by_family: dict[int, set[str]] = {}
    for family, *_, address in found:
        by_family.setdefault(family, set()).add(str(address[0]))
    hosts = max(by_family.values(), key=len)  # a host may have both kinds of addresses
    return (
        [url] if len(hosts) == 1 else sorted(str(parsed.copy_with(host=host)).rstrip("/") for host in hosts)
    )


def counts(exposition: str) -> _Counts:
    """What a scrape of `/metrics` says of the release's arms."""
    return Counter(dict(_samples(exposition)))


def _samples(exposition: str) -> Iterator[tuple[tuple[str, str], int]]:
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == f"{SECONDS}_bucket":
                yield (sample.labels["arm"], sample.labels["le"]), int(sample.value)
            elif sample.name == f"{DEGRADED}_total":
                yield (sample.labels["arm"], "degraded"), int(sample.value)


def _requests_of(counted: Mapping[tuple[str, str], int], arm: str) -> Requests:
    seconds = {float(what): n for (of, what), n in counted.items() if of == arm and what != "degraded"}
    return Requests(seconds.get(float("inf"), 0), counted.get((arm, "degraded"), 0), seconds)


def _users(lake: Path, experiment: str) -> tuple[int, dict[str, float]]:
    """Users of the canary in the lake, and their guardrails."""
    try:
        *_, outcomes = outcomes_by_day(lake, experiment)
    except InvalidData:  # the archiver has not written any yet
        return 0, {}
    if CANARY not in outcomes.arms:
        return 0, {}
    users = int((outcomes.arm == outcomes.arms.index(CANARY)).sum())
    return users, user_guardrails(outcomes)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
