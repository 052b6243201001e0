"""`recsys report popular`: how many users engaged with each item, with noise, so that the table may be published."""

import math
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import ENGAGEMENT
from recsys.datasets.catalogue import items_path
from recsys.items.item_table import read_items
from recsys.lake.lake import days, read_day
from recsys.private_stats import best, private_counts, variance_of
from recsys.result import Result
from training.privacy.accounting import Spend, check_delta, noise_for
from training.privacy.ledger import Ledger


@dataclass(frozen=True)
class PopularReport:
    """days: of the lake, the newest. most: items of one user that count, her newest. top: how many are printed."""

    lake: Path
    epsilon: float
    days: int = 7
    most: int = 10
    top: int = 20


def report(config: PopularReport, ledger: Ledger) -> Result:
    """Figures by item id, the most popular first.

    Raises:
        BudgetSpent: the ledger has not enough left.
        InvalidConfig: its delta is too large for the number of users.
        InvalidData: the lake has no events.
    """
    chosen = days(config.lake)[-config.days :]
    if not chosen:
        raise InvalidData(f"{config.lake}: no events; import a data set first: `recsys data import`")
    items = [item.item_id for item in read_items(items_path(config.lake))]
    users = engaged_items(config.lake, chosen)
    check_delta(ledger.delta, len(users))
    noise = noise_for(config.epsilon, ledger.delta, lambda multiplier: [Spend(multiplier)])
    variance = variance_of(noise, config.most)
    total = ledger.spend("popular items", [Spend(float(variance / config.most) ** 0.5)])
    counts = private_counts(users.values(), items, config.most, variance)
    bound = _bound(float(variance), len(items))
    notes = (
        f"users of {chosen[0]} … {chosen[-1]}, of each at most her newest {config.most} items; epsilon"
        f" {config.epsilon:g}, delta {ledger.delta:g} for a user; {total:.2f} of {ledger.epsilon:g} are spent",
        f"all {len(items):,} items are within ± {bound:.0f} of their true numbers, but for a chance of 5 %; those shown"
        " are chosen for being high, so they are rather too high",
    )
    return Result("report popular", 0, best(counts, config.top), notes=notes)


def _bound(variance: float, items: int) -> float:
    """Of the largest of this Gaussian noise over all items, with probability .95."""
    return math.sqrt(2 * variance * math.log(2 * max(items, 1) / 0.05))


def engaged_items(lake: Path, chosen: list[str]) -> dict[str, list[str]]:
    """User → items that the user engaged with on these days, newest first, with repetitions."""
    kinds = pa.array(sorted(ENGAGEMENT), pa.string())
    found: dict[str, list[str]] = {}
    for day in reversed(chosen):
        rows = read_day(lake, day, columns=("user_id", "item_id", "type"))
        rows = rows.filter(pc.is_in(rows["type"], kinds))
        for user, item in zip(
            reversed(rows["user_id"].to_pylist()), reversed(rows["item_id"].to_pylist()), strict=True
        ):
            found.setdefault(user, []).append(item)
    return found
