"""`recsys drill poison`: fake users push items, against each defence and none (ADR 27).

1. A simulated shop is attacked in seven ways. For each attack and defence its models are trained, and honest visitors
   of the day after are shown lists: how often are the pushed items in them, and how many clicks do the lists bring?
2. The control is the same attack without a defence: it must succeed, or the drill shows nothing.
3. A burst of fake clicks goes through a real broker, worker and Redis.
"""

import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from infra.evaluation.fault_injection.poison.attacks import ATTACKS
from infra.evaluation.fault_injection.poison.burst import Burst, measure
from infra.evaluation.fault_injection.poison.simulated import (
    CLEAN,
    Defence,
    Judged,
    Played,
    PoisonedShop,
    Simulation,
)
from infra.terminal import console
from recsys.result import Goal, Result

_WINS = 1.5  # times the exposure without an attack


@dataclass(frozen=True)
class PoisonDrill:
    """Shops with the seeds `seed`, `seed` + 1, …"""

    seed: int = 0
    seeds: int = 3
    attacks: tuple[str, ...] = tuple(ATTACKS)
    shop: PoisonedShop = field(default_factory=PoisonedShop)
    is_quick: bool = False

    @classmethod
    def quick(cls, seed: int) -> "PoisonDrill":
        shop = PoisonedShop(users=600, items=250, days=5, visitors=80)
        return cls(seed, seeds=1, attacks=("bandwagon", "coattails"), shop=shop, is_quick=True)


@dataclass
class Cell:
    """One attack under one defence, summed over the seeds."""

    exposures: int = 0
    places: int = 0
    clicks_per_list: float = 0.0

    def add(self, played: Played) -> None:
        self.exposures += played.exposures
        self.places += played.places
        self.clicks_per_list += played.clicks_per_list

    @property
    def share(self) -> float:
        """Of the places that have a target; never 0, so that it can be divided by."""
        return (self.exposures + 1) / (self.places + 1)


def run(config: PoisonDrill) -> Result:
    cells: dict[tuple[str, Defence], Cell] = defaultdict(Cell)
    judged: dict[str, list[Judged]] = defaultdict(list)
    for seed in range(config.seed, config.seed + config.seeds):
        with tempfile.TemporaryDirectory(prefix="recsys-poison-") as folder:
            shop = Simulation(config.shop, seed, Path(folder))
            for attack in (CLEAN, *config.attacks):
                for defence in Defence:
                    cells[attack, defence].add(shop.play(attack, defence))
                judged[attack].append(shop.judged(attack))
    return result(config, cells, judged, measure(Burst(seed=config.seed)))


def result(
    config: PoisonDrill,
    cells: dict[tuple[str, Defence], Cell],
    judged: dict[str, list[Judged]],
    burst: dict[str, float],
) -> Result:
    """The figures; what an attack wins and costs is compared with the shop that nobody attacks or defends."""
    clean = cells[CLEAN, Defence.NONE]
    figures: dict[str, float] = {"clean_exposures": clean.exposures}
    notes = [
        "users, clicks and fake users are simulated; verdicts, trainings, feature states and the request path are real;"
        " the burst is of real servers",
        f"exposure: places with a pushed item, against the same shop without an attack ({clean.exposures} of"
        f" {clean.places} places)",
    ]
    won = {key: cell.share / clean.share for key, cell in cells.items()}
    lost = {key: cell.clicks_per_list / clean.clicks_per_list - 1 for key, cell in cells.items()}
    for attack in config.attacks:
        figures |= {f"exposure_{attack}_{defence}": won[attack, defence] for defence in Defence}
        figures |= {f"ctr_{attack}_{defence}": lost[attack, defence] for defence in Defence}
        figures[f"left_out_{attack}"] = _mean([each.fake_events for each in judged[attack]])
    strongest = {d: max(config.attacks, key=lambda attack: won[attack, d]) for d in Defence}
    figures |= {
        "exposure_without_defence_max": won[strongest[Defence.NONE], Defence.NONE],
        "exposure_defended_max": won[strongest[Defence.BOTH], Defence.BOTH],
        "exposure_with_tokens_max": won[strongest[Defence.ALL], Defence.ALL],
        "ctr_defended_min": min(
            lost[attack, defence]
            for attack in (CLEAN, *config.attacks)
            for defence in (Defence.BOTH, Defence.ALL)
        ),
        "honest_users_flagged_share": max(each.honest_users for found in judged.values() for each in found),
        "honest_events_left_out_share": max(
            each.honest_events for found in judged.values() for each in found
        ),
        **burst,
    }
    for defence, name in ((Defence.BOTH, "both defences"), (Defence.ALL, "both defences and item tokens")):
        attack = strongest[defence]
        verdict = (
            "still wins" if won[attack, defence] > _WINS else "is the strongest of those that are stopped"
        )
        notes.append(f"{attack} {verdict}: {won[attack, defence]:.2f} times the exposure, with {name}")
        console.print(notes[-1], highlight=False)
    goals = {
        "exposure_without_defence_max": Goal(">=", 10.0),
        "exposure_defended_max": Goal("<=", _WINS),
        "exposure_with_tokens_max": Goal("<=", _WINS),
        "ctr_defended_min": Goal(">=", -0.005),
        "honest_users_flagged_share": Goal("<=", 0.001),
        "burst_neutralised_s": Goal("<=", 2.0),
        "burst_control_in_list_s": Goal(">", 0),  # else there was nothing to neutralise
    }
    if config.is_quick:  # one small shop: shares are of few lists
        of_servers = ("honest_users_flagged_share", "burst_neutralised_s", "burst_control_in_list_s")
        goals = {name: goals[name] for name in of_servers}
    return Result("drill poison", config.seed, figures, goals, notes)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
