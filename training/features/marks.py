"""What finished output was made of, as the content of its mark: output with another mark is made again."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from hashlib import sha256
from typing import Any

from recsys.contracts.attribution import Attribution
from recsys.contracts.merges import UserMerge
from recsys.contracts.types import MS_PER_DAY, EventType
from recsys.features.definitions import FEATURES
from recsys.lake.lake import start_of
from recsys.trust.rules import RULES


@dataclass(frozen=True)
class Labelling:
    """What of a run decides how the impressions of a day are labelled."""

    attribution: Attribution = field(default_factory=Attribution)
    only_named: frozenset[EventType] = frozenset()
    unshown: frozenset[EventType] = frozenset()
    negatives: int = 4
    seed: int = 0


def day_mark(
    labelling: Labelling,
    day: str,
    content: Mapping[str, str],
    merged: Sequence[UserMerge],
    suspects: str = "",
) -> str:
    """Of a day's examples.

    It names the rows that may label the day, because outcomes arrive late: a day is built early, and again when more
    have arrived, or others in their place. It names the merges up to its end, since one may be forgotten, and another
    arrive; and the suspects that are left out.

    Args:
        content: of the log, by day (`LogContent`).
        suspects: `digest` of `Verdicts.of_examples`; empty: there are none.
    """
    end_ms = start_of(day) + MS_PER_DAY
    named = {"merges": _merges(merged, end_ms), "suspects": suspects}
    made_of = {
        "fingerprint": FEATURES.fingerprint,
        "layout": 2,  # of the files: `packing`
        "built_of": {d: content.get(d, "") for d in label_days(day, labelling.attribution.window_ms)},
        "window_ms": labelling.attribution.window_ms,
        "only_named": sorted(labelling.only_named),
        "unshown": sorted(labelling.unshown),
        "negatives": labelling.negatives,
        "seed": labelling.seed,
        **{name: found for name, found in named.items() if found},
    }
    return json.dumps(made_of, sort_keys=True)


def log_mark(
    content: Mapping[str, str], merged: Sequence[UserMerge], forgotten: Mapping[str, int], trust: bool
) -> str:
    """Of what the whole log decides: what is left out as manipulation, and the sequences."""
    made_of = {
        "layout": 1,
        "rows": dict(content),
        "merges": _merges(merged),
        "forgotten": digest(forgotten.items()),
        "trust": asdict(RULES) if trust else None,
    }
    return json.dumps(made_of, sort_keys=True)


def label_days(day: str, window_ms: int) -> list[str]:
    """The days whose events may label an impression of `day`, itself first."""
    first, more = date.fromisoformat(day), -(-window_ms // MS_PER_DAY)
    return [(first + timedelta(days=n)).isoformat() for n in range(more + 1)]


def digest(found: Iterable[Any]) -> str:
    """Of entries in any order; empty for none."""
    listed = sorted(found)
    return sha256(json.dumps(listed).encode()).hexdigest() if listed else ""


def _merges(merged: Sequence[UserMerge], end_ms: float = float("inf")) -> str:
    return digest((m.user_id, m.into, m.changed_ms) for m in merged if m.changed_ms < end_ms)
