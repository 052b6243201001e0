"""One attack on a running part of the system, and the report of several."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from recsys.result import Goal, Result

Area = Literal["streams", "redis and disks", "security", "imports"]


class Broken(Exception):
    """The attack did what it must not do; the message says what."""


@dataclass(frozen=True)
class Attack:
    """What a hostile or broken neighbour does.

    Args:
        what: the attack, in a line.
        before: what commit dc08ecb did under it, recorded when the fault was found; it is not measured again.
        run: attack real parts from an empty folder; return what happened, in a line.
    """

    area: Area
    what: str
    before: str
    run: Callable[[Path], str]


@dataclass(frozen=True)
class Outcome:
    """What one attack came to. An error that the attack itself did not expect does not hold either."""

    area: Area
    what: str
    before: str
    now: str
    holds: bool
    seconds: float


def run_all(attacks: Sequence[Attack]) -> Iterator[Outcome]:
    """Run the attacks one by one, each in a folder of its own."""
    for attack in attacks:
        began = time.perf_counter()
        with TemporaryDirectory(prefix="recsys-hostile-", ignore_cleanup_errors=True) as folder:
            try:
                now, holds = attack.run(Path(folder)), True
            except Broken as broken:
                now, holds = str(broken), False
            except Exception as error:
                now, holds = f"{type(error).__name__}: {error}", False
        took = time.perf_counter() - began
        yield Outcome(attack.area, attack.what, attack.before, now, holds, round(took, 1))


def report(outcomes: Sequence[Outcome], command: str = "drill hostile", seed: int = 0) -> dict[str, Any]:
    """The JSON object of `--json`: a result's figures and goals, and a row per attack."""
    result = summary(outcomes, command, seed)
    return result.to_dict() | {"attacks": [asdict(outcome) for outcome in outcomes]}


def summary(outcomes: Sequence[Outcome], command: str = "drill hostile", seed: int = 0) -> Result:
    """The figures: how many attacks ran, and how many did not hold. No attack at all meets no goal."""
    broken = sum(not outcome.holds for outcome in outcomes)
    return Result(
        command=command,
        seed=seed,
        figures={"attacks": len(outcomes), "broken": broken},
        goals={"attacks": Goal(">", 0), "broken": Goal("==", 0)},
    )
