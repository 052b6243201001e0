"""Fault injection for releases: planted bad bundles, releases without any difference, better bundles, kills.

1. A small simulated shop trains a serving bundle, a candidate and eight bad ones. Each is released in virtual time by
   the product's controller: real gate, real request path, users who draw what was played (*simulated*).
2. The control publishes each at once, for a day. Each is also released by the canary alone, without gate and shadow.
3. Releases of the serving bundle against itself (A/A), and of one with more clicks.
4. The controller is killed around each change of a file. Processes follow a rollback.
"""

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from infra.evaluation.fault_injection.release.back import PROCESSES, seconds_back
from infra.evaluation.fault_injection.release.canary import SimulatedEvidence, Traffic, detectable_drop
from infra.evaluation.fault_injection.release.kills import kill_everywhere
from infra.evaluation.fault_injection.release.lists import Lists, Player
from infra.evaluation.fault_injection.release.planted import SLOW, plant
from infra.evaluation.fault_injection.release.training import (
    CANDIDATE,
    POISONED,
    SERVING,
    SHUFFLED,
    STALE,
    Shop,
    ShopSize,
    train_shop,
)
from infra.release.controller import Controller, change
from infra.terminal import console
from recsys.bundle import Bundle, copy_bundle
from recsys.contracts.types import MS_PER_DAY, MS_PER_HOUR
from recsys.experiments.release import (
    SHARES,
    Abort,
    Check,
    Release,
    ReleasePlan,
    Stage,
    Tick,
    decide,
    proposed,
)
from recsys.experiments.release_file import STATE, history, propose
from recsys.result import Goal, Result
from training.evaluation.release_gate import GateConfig
from training.evaluation.release_gate import main as gate

_STEP_MS = 30 * 60_000  # of the virtual time between two looks
_LOOK_MS = 6 * _STEP_MS  # of the many releases without gate and shadow
_SLOWER = 3.0
_LIFT = 0.05
_CANARY_USERS = (30, 250, 1_000, 10_000, 50_000)


@dataclass(frozen=True)
class ReleaseDrill:
    """`visitors` are played per bundle; `aa`, `better`: releases of the serving bundle, and of one with +5 % CTR."""

    seed: int = 0
    size: ShopSize = field(default_factory=ShopSize)
    traffic: Traffic = field(default_factory=Traffic)
    visitors: int = 500
    aa: int = 200
    better: int = 200
    gate_rows: int = 8_000
    is_quick: bool = False

    @classmethod
    def quick(cls, seed: int) -> "ReleaseDrill":
        return cls(seed, visitors=120, aa=20, better=20, gate_rows=4_000, is_quick=True)


@dataclass(frozen=True)
class Ran:
    """One release in virtual time. `after`: the stage that it did not leave; `exposed`: users who saw the candidate."""

    stage: Stage
    after: str
    reason: str
    exposed: float
    hours: float


def run(config: ReleaseDrill) -> Result:
    with tempfile.TemporaryDirectory(prefix="recsys-release-") as folder:
        home = Path(folder)
        return measure(config, home, train_shop(config.size, config.seed, home))


def measure(config: ReleaseDrill, home: Path, shop: Shop) -> Result:
    """Everything after the training."""
    bad = {
        **{name: shop.trained[name] for name in (SHUFFLED, STALE, POISONED)},
        **plant(shop.bundles, shop.trained[CANDIDATE]),
    }
    player = Player(shop.world, shop.lake, shop.now_ms, config.visitors)
    console.print("next: play the visits of the day after with each bundle")
    played = {**bad, SERVING: shop.trained[SERVING], CANDIDATE: shop.trained[CANDIDATE]}
    lists = {name: player.play(bundle) for name, bundle in played.items()}
    lists[SLOW] = lists[SLOW].slower(_SLOWER)
    figures, notes = _planted(config, shop, bad, lists)
    figures |= _statistics(config, lists[SERVING])
    figures |= _kills(home, shop)
    goals = {
        "stopped": Goal("==", len(bad)),
        "exposed_share_max": Goal("<=", 0.02),
        "lost_clicks_share": Goal("<=", 0.05),
        "back_s_max": Goal("<=", 10.0),
        "aa_rolled_back_share": Goal("<=", 0.05),
        "better_promoted_share": Goal(">=", 0.8),
        "wrong_states": Goal("==", 0),
    }
    if config.is_quick:  # too few releases for a share of 5 %
        goals = {name: goals[name] for name in ("stopped", "exposed_share_max", "wrong_states")}
    return Result("drill release", config.seed, figures, goals, notes)


def _planted(
    config: ReleaseDrill, shop: Shop, bad: dict[str, Bundle], lists: dict[str, Lists]
) -> tuple[dict[str, float], list[str]]:
    """The candidate and each bad bundle: with all defences, and by the canary alone."""
    notes = [
        "users, clicks, times and virtual hours are simulated; the gate, the statistics and the files are real"
    ]
    serving = lists[SERVING]
    stopped_by, alone = Counter[str](), 0
    harm: list[float] = []  # lost clicks per list
    exposed: list[tuple[float, float]] = []  # users, with all defences and by the canary alone
    for name in (CANDIDATE, *sorted(bad)):
        ran = release_once(config, shop, name, lists, defences=True)
        canary = release_once(config, shop, name, lists, defences=False)
        notes.append(
            f"{name}: {ran.stage} after {ran.after} ({ran.reason}); canary alone: {canary.stage} after {canary.after},"
            f" {canary.exposed:.0f} users exposed ({canary.reason}); clicks per list"
            f" {lists[name].clicks_per_list / serving.clicks_per_list - 1:+.1%}, purchases per click"
            f" {lists[name].purchases_per_click / serving.purchases_per_click - 1:+.1%}"
        )
        console.print(notes[-1], highlight=False, markup=False)
        if name == CANDIDATE:
            continue
        stopped_by[ran.after if ran.stage is Stage.ROLLED_BACK else "nothing"] += 1
        alone += canary.stage is Stage.ROLLED_BACK
        harm.append(max(serving.clicks_per_list - lists[name].clicks_per_list, 0.0))
        exposed.append((ran.exposed, canary.exposed))
    shares = np.array(exposed) / config.traffic.users
    lost = shares.T @ np.array(harm) / max(sum(harm), 1e-9)  # of what publishing at once loses in a day
    return {
        "planted": len(bad),
        "stopped": len(bad) - stopped_by["nothing"],
        "stopped_by_gate": stopped_by[Stage.TRAINED],
        "stopped_by_shadow": stopped_by[Stage.SHADOW],
        "stopped_by_canary": sum(stopped_by[stage] for stage in SHARES),
        "exposed_share_max": float(shares[:, 0].max()),
        "lost_clicks_share": float(lost[0]),
        "canary_alone_stopped": alone,
        "canary_alone_exposed_share_max": float(shares[:, 1].max()),
        "canary_alone_lost_clicks_share": float(lost[1]),
    }, notes


def release_once(config: ReleaseDrill, shop: Shop, name: str, lists: dict[str, Lists], defences: bool) -> Ran:
    """By the product's controller, on a folder of bundles of its own."""
    now = [shop.now_ms]
    checked: list[tuple[Check, ...]] = []

    def judged() -> tuple[Check, ...]:
        if not checked:
            checked.append(
                gate(
                    GateConfig(
                        candidate=shop.bundles / name,
                        serving=shop.bundles / SERVING,
                        examples=shop.examples_of(name),
                        rows=config.gate_rows,
                        seed=config.seed,
                    )
                )
            )
        return checked[0]

    evidence = SimulatedEvidence(
        lists[SERVING],
        lists[name],
        judged,
        config.traffic,
        lambda: now[0],
        config.seed,
        defences=defences,
    )
    _forget(shop.bundles)
    controller = Controller(shop.bundles, evidence, ReleasePlan(), lambda: now[0])
    propose(shop.bundles, name)
    release, exposed = controller.step(), 0.0
    while release is not None and not release.ended:
        now[0] += _STEP_MS
        exposed = _exposed(release, now[0], config.traffic, exposed)
        release = controller.step()
    assert release is not None  # noqa: S101 - it was proposed
    stages = [line["stage"] for line in history(shop.bundles)]
    hours = (now[0] - shop.now_ms) / MS_PER_HOUR
    (shop.bundles / "CURRENT").write_text(SERVING + "\n", encoding="utf-8")
    return Ran(release.stage, stages[-2], release.reason, exposed, hours)


def _exposed(release: Release, now_ms: int, traffic: Traffic, before: float) -> float:
    """Users who have seen the candidate. In the simulation nobody comes twice, so those of each stage are added up."""
    return before + SHARES.get(release.stage, 0.0) * traffic.users * _STEP_MS / MS_PER_DAY


def _forget(bundles: Path) -> None:
    for path in bundles.iterdir():
        if path.is_file() and path.name != "CURRENT":
            path.unlink()


def _statistics(config: ReleaseDrill, serving: Lists) -> dict[str, float]:
    """A/A releases, and releases of a bundle with more clicks, by the state machine in virtual time."""
    console.print("next: releases of the serving bundle against itself, and of a better one")
    aa = [_simulate(config, serving, seed, 0.0) for seed in range(config.aa)]
    better = [_simulate(config, serving, 10_000 + seed, _LIFT) for seed in range(config.better)]
    return {
        "aa_releases": len(aa),
        "aa_rolled_back_share": float(np.mean([r.stage is Stage.ROLLED_BACK for r in aa])),
        "better_releases": len(better),
        "better_promoted_share": float(np.mean([r.stage is Stage.PROMOTED for r in better])),
        **{
            f"detectable_ctr_drop_{users}_users": detectable_drop(serving, users, ReleasePlan().level)
            for users in _CANARY_USERS
        },
    }


def _simulate(config: ReleaseDrill, lists: Lists, seed: int, lift: float) -> Release:
    """From the first canary stage: gate and shadow have no part in chance."""
    now = [1_750_000_000_000]
    evidence = SimulatedEvidence(
        lists, lists, lambda: (), config.traffic, lambda: now[0], config.seed + seed, lift
    )
    plan, release = ReleasePlan(), replace(proposed("new", "old", now[0]), stage=Stage.CANARY_1)
    while not release.ended:
        now[0] += _LOOK_MS
        release = decide(release, evidence.look(release), plan)
        release = decide(release, Tick(now[0]), plan)
    return release


def _kills(home: Path, shop: Shop) -> dict[str, float]:
    console.print("next: kill the controller around each change of a file; roll back in other processes")
    bundles = home / "killed"
    bundles.mkdir()
    for version in (SERVING, CANDIDATE):
        copy_bundle(shop.trained[version], bundles)
    kills, wrong = kill_everywhere(bundles, SERVING, CANDIDATE)
    canary = replace(proposed(CANDIDATE, SERVING, 1_750_000_000_000), stage=Stage.CANARY_1, settled=True)
    back = seconds_back(
        bundles / STATE,
        canary,
        lambda: change(
            bundles, lambda now: decide(now, Abort(now.since_ms + 1, "drill"), ReleasePlan()), tuple
        ),
    )
    shutil.rmtree(bundles)
    return {"kills": kills, "wrong_states": wrong, "processes": PROCESSES, "back_s_max": max(back)}
