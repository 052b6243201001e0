"""A controller on the running system, as the commands start it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from infra.release.controller import Controller
from infra.release.live import LiveEvidence
from recsys.contracts.errors import InvalidConfig
from recsys.experiments.release import ReleasePlan
from recsys.operator_files import read_yaml
from recsys.settings import Settings
from recsys.signatures import read_public_keys


@contextmanager
def live_controller(
    settings: Settings, apis: Sequence[str], key: str, plan: Path | None
) -> Iterator[Controller]:
    """Raises `InvalidConfig`: the plan's file is missing or has wrong keys."""
    rules = read_yaml(plan, ReleasePlan, InvalidConfig) if plan else ReleasePlan()
    with closing(LiveEvidence(settings, apis, key)) as evidence:
        yield Controller(
            settings.bundles,
            evidence,
            rules,
            lambda: time.time_ns() // 1_000_000,
            lambda: read_public_keys(settings.bundle_keys),
        )
