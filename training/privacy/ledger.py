"""What trainings and published counts have spent of the users' privacy budget: `RECSYS_HOME/privacy.json`.

An entry is written before its noise is drawn. A training that is killed has spent its part: better too much in the
ledger than a release that is missing there.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from recsys.contracts.errors import BudgetSpent, InvalidData
from recsys.files import atomic_write, locked
from recsys.operator_files import read_json
from recsys.result import to_json
from training.privacy.accounting import UNIT, Spend, epsilon_of


class Entry(msgspec.Struct, frozen=True):
    """One training or publication."""

    what: str
    time_ms: int
    spends: tuple[Spend, ...]


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    entries: list[Entry] = []
    unit: str = UNIT


class Ledger:
    """The file, and the budget that it may not exceed."""

    def __init__(
        self, path: Path, epsilon: float, delta: float, clock: Callable[[], float] = time.time
    ) -> None:
        self.path, self.epsilon, self.delta, self._clock = path, epsilon, delta, clock

    def entries(self) -> list[Entry]:
        """
        Raises:
            InvalidData: the file is damaged. It is never read as empty.
        """
        try:
            return read_json(self.path, _Content, InvalidData).entries
        except FileNotFoundError:
            return []

    def spent(self) -> float:
        """Epsilon of all entries together, at the ledger's delta."""
        return epsilon_of(_spends(self.entries()), self.delta)

    def spend(self, what: str, spends: Sequence[Spend]) -> float:
        """Write an entry. Returns epsilon of all entries with this one.

        Raises:
            BudgetSpent: that is more than the budget; nothing was written.
            InvalidData: the file is damaged.
        """
        with locked(self.path.with_suffix(".lock")):
            before = self.entries()
            entries = [*before, Entry(what, int(self._clock() * 1000), tuple(spends))]
            total = epsilon_of(_spends(entries), self.delta)
            if total > self.epsilon:
                raise BudgetSpent(self._refusal(what, before, total))
            content = {"unit": UNIT, "entries": [msgspec.structs.asdict(entry) for entry in entries]}
            for entry in content["entries"]:
                entry["spends"] = [asdict(spend) for spend in entry["spends"]]  # type: ignore[index]
            atomic_write(self.path, to_json(content, indent=2), fsync=True)
        return total

    def _refusal(self, what: str, before: Sequence[Entry], total: float) -> str:
        spent = epsilon_of(_spends(before), self.delta)
        return (
            f"{what} would bring the users' epsilon from {spent:.2f} to {total:.2f}, above the budget of"
            f" {self.epsilon:g} (delta {self.delta:g}; {len(before)} entries in {self.path}); keep serving the last"
            " bundle, ask for a smaller epsilon, or raise RECSYS_PRIVACY_EPSILON if what you promised allows it"
        )


def _spends(entries: Sequence[Entry]) -> list[Spend]:
    return [spend for entry in entries for spend in entry.spends]
