"""`recsys report popular`: how many users engaged with each item, with noise, so that the table may be published."""

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
from training.private.accounting import Spend, noise_for
from training.private.ledger import Ledger


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
        InvalidData: the lake has no events.
    """
    chosen = days(config.lake)[-config.days :]
    if not chosen:
        raise InvalidData(f"{config.lake}: no events; import a data set first: `recsys data import`")
    items = [item.item_id for item in read_items(items_path(config.lake))]
    users = engaged_items(config.lake, chosen)
    noise = noise_for(config.epsilon, ledger.delta, lambda multiplier: [Spend(multiplier)])
    variance = variance_of(noise, config.most)
    total = ledger.spend("popular items", [Spend(float(variance / config.most) ** 0.5)])
    counts = private_counts(users.values(), items, config.most, variance)
    notes = (
        f"users of {chosen[0]} … {chosen[-1]}, of each at most her newest {config.most} items; epsilon"
        f" {config.epsilon:g}, delta {ledger.delta:g} for a user; {total:.2f} of {ledger.epsilon:g} are spent",
        f"each number is within ± {2 * float(variance) ** 0.5:.0f} of the true one for 19 of 20 items",
    )
    return Result("report popular", 0, best(counts, config.top), notes=notes)


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
