"""The log that a simulator's users leave where products are shown at random: a table and its mapping, to import."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from infra.evaluation.load.second_world.policies import Shown, at_random, timeline
from infra.evaluation.load.second_world.world import ForeignWorld, item_id
from recsys.contracts.types import MS_PER_DAY, MS_PER_MINUTE
from recsys.datasets.opening import MAPPING_FILE

# RecoGym's steps have no unit: a minute each makes a user's whole time about an hour and a half.
STEP_MS = MS_PER_MINUTE

MAPPING = """\
events:
  files: [log.csv]
  user: user
  item: product
  time: {column: time_ms}
  events:
    - {type: view, when: kind, equals: organic}       # what a user looks at unasked is no answer to a list
    - {type: impression, when: kind, equals: bandit}
    - {type: click, when: clicked}
  request: [request]
items:
  files: [products.csv]
  item: product
"""


def write_history(
    world: ForeignWorld, folder: Path, users: Sequence[int], start_ms: int, days: int, seed: int
) -> list[int]:
    """Write the log of users who come at uniform times of these days; returns the viewed products."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MAPPING_FILE).write_text(MAPPING, encoding="utf-8")
    begins = start_ms + np.random.default_rng(seed).integers(days * MS_PER_DAY, size=len(users))
    viewed: list[int] = []
    with (folder / "products.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["product"], *([item_id(product)] for product in range(world.products))])
    with (folder / "log.csv").open("w", encoding="utf-8", newline="") as file:
        log = csv.writer(file)
        log.writerow(["user", "time_ms", "kind", "product", "clicked", "request"])
        for user, begin_ms in zip(users, begins.tolist(), strict=True):
            for each in timeline(world, user, at_random(world.products), seed):
                if isinstance(each, Shown):
                    at = each.before.step
                    row = ["bandit", item_id(each.product), int(each.after.clicked), f"r{user}-{at}"]
                    log.writerow([user_id(user), begin_ms + at * STEP_MS, *row])
                    continue
                for at, product in each.views:
                    viewed.append(product)
                    log.writerow([user_id(user), begin_ms + at * STEP_MS, "organic", item_id(product), 0, ""])
    return viewed


def user_id(user: int) -> str:
    return f"u{user}"
