"""A simulated shop under attack: its log, what is trained on it, and what honest visitors are shown the day after.

Simulated: users, their clicks, the attackers. Real: the verdicts, both trainings, the store's states, the request path.
"""

import shutil
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.evaluation.case_study.learn import read_log, write_examples
from infra.evaluation.fault_injection.poison.attacks import ATTACKS, Scene, with_tokens
from infra.evaluation.fault_injection.release.lists import Lists, Player
from infra.evaluation.fault_injection.release.training import ShopSize, train_own_ranker, train_towers
from infra.terminal import console
from recsys.bundle import Bundle, open_bundle
from recsys.contracts.events import Event
from recsys.contracts.types import ENGAGEMENT, MS_PER_DAY, EventType
from recsys.files import atomic_write
from recsys.lake.lake import EVENTS, day_writer, events_table
from recsys.simulation.actions import row_of
from recsys.simulation.history import HistoryConfig, write_history
from recsys.simulation.world import Ints, World, WorldConfig, create_world
from training import publish
from training.features.arrow_columns import TIME
from training.features.sequences import sequences
from training.features.trust import (
    TRUST,
    Judgement,
    Verdicts,
    tally,
    trusted,
    weights_of,
)
from training.publish import PublishConfig

CLEAN = "clean"
_POPULAR = 50
_ATTACK_DAYS = 3
_SEARCHED = 0.05  # of the honest clicks: as many more come from a search, without a list
_NARROWED = 0.1  # of the honest lists


class Defence(StrEnum):
    NONE = "none"
    STREAM = "stream"  # item features count what impressions explain, and what the training says
    TRAINING = "training"  # sequences without suspects
    BOTH = "both"
    ALL = "all"  # both, and an outcome needs the token of the item that was shown

    @property
    def of_stream(self) -> bool:
        return self in (Defence.STREAM, Defence.BOTH, Defence.ALL)

    @property
    def of_training(self) -> bool:
        return self in (Defence.TRAINING, Defence.BOTH, Defence.ALL)


@dataclass(frozen=True)
class PoisonedShop:
    """`fake_share`: fake users per honest one. `targets`: items that they push. `visitors`: honest ones of the day
    after."""

    users: int = 1_200
    items: int = 400
    days: int = 6
    fake_share: float = 0.01
    targets: int = 3
    visitors: int = 200
    example_days: int = 3
    size: ShopSize = field(
        default_factory=lambda: ShopSize(recall_epochs=2, rank_epochs=2, rows_per_epoch=30_000)
    )


@dataclass(frozen=True)
class Played:
    """What honest visitors saw. `exposures`: of the targets, of all places of their lists."""

    exposures: int
    places: int
    clicks_per_list: float


@dataclass(frozen=True)
class Judged:
    """What a verdict of a log left out: shares of honest users' and of attackers' engagements, and of honest users."""

    honest_events: float
    honest_users: float
    fake_events: float


class Simulation:
    """One shop; `play` trains what an attack and a defence need, once."""

    def __init__(self, config: PoisonedShop, seed: int, home: Path) -> None:
        self._config, self._seed, self._home = config, seed, home
        self.world = create_world(
            WorldConfig(seed=seed, users=config.users, items=config.items, days=config.days + 2)
        )
        history = HistoryConfig(days=config.days, narrowed_share=_NARROWED)
        write_history(self.world, self._lake(CLEAN), history)
        self.now_ms = self.world.config.start_ms + config.days * MS_PER_DAY
        self._write(CLEAN, "search", _searches(self.world, read_log(self._lake(CLEAN)), seed))
        self._player: tuple[Path, Player] | None = None
        self.scene = self._scene()

    def play(self, attack: str, defence: Defence) -> Played:
        """`attack`: one of `ATTACKS`, or `CLEAN`."""
        lists = self._lists(attack, defence)
        shown = lists.items[lists.items >= 0]
        exposures = int(np.isin(shown, self.scene.targets).sum())
        return Played(exposures, len(shown), lists.clicks_per_list)

    def judged(self, attack: str) -> Judged:
        """What a build of the features would leave out."""
        log = read_log(self._attacked(attack, Defence.NONE))
        engaged = log.filter(pc.is_in(log.column("type"), pa.array(sorted(map(str, ENGAGEMENT)))))
        verdicts = Verdicts.of(tally(log))
        left = np.asarray(trusted(log, verdicts).column("event_id"))
        lost = engaged.filter(pc.invert(pc.is_in(engaged.column("event_id"), pa.array(left))))
        users, lost_users = (np.array(t.column("user_id").to_pylist(), str) for t in (engaged, lost))
        fake, lost_fake = (np.char.startswith(ids, attack) for ids in (users, lost_users))
        flagged = verdicts.users.column("user_id").to_pylist()
        honest_flagged = {user for user in flagged if not user.startswith(attack)}
        return Judged(
            float((~lost_fake).sum() / (~fake).sum()),
            len(honest_flagged) / len(np.unique(users[~fake])),
            float(lost_fake.sum() / max(fake.sum(), 1)),
        )

    def _lists(self, attack: str, defence: Defence) -> Lists:
        bundle, lake = self._bundle(attack, defence), self._attacked(attack, defence)
        if self._player is None or self._player[0] != lake:
            self._player = lake, Player(self.world, lake, self.now_ms, self._config.visitors)
        return self._player[1].play(bundle, defence.of_stream)

    def _scene(self) -> Scene:
        """Targets are drawn from the items that a list of the clean shop has now and then: there is an exposure to
        compare with, and a higher one to win."""
        lists = self._lists(CLEAN, Defence.NONE)
        shown = np.bincount(lists.items[lists.items >= 0], minlength=len(self.world.quality))
        wanted = np.flatnonzero((shown > 0) & (self.world.born_ms < self.world.config.start_ms))
        by_exposure = wanted[np.argsort(shown[wanted], kind="stable")]
        middle = by_exposure[len(by_exposure) // 3 : len(by_exposure) * 2 // 3]
        rng = np.random.default_rng((self._seed, 10))
        clicks = _counts(read_log(self._lake(CLEAN)), self.world)
        return Scene(
            world=self.world,
            fakes=max(1, round(self._config.fake_share * self._config.users)),
            targets=np.sort(rng.choice(middle, self._config.targets, replace=False)),
            popular=np.argsort(-clicks, kind="stable")[:_POPULAR],
            first_ms=self.now_ms - _ATTACK_DAYS * MS_PER_DAY,
            now_ms=self.now_ms,
            seed=self._seed,
        )

    def _bundle(self, attack: str, defence: Defence) -> Bundle:
        """The ranker learns from impressions, so a verdict changes its rows only where lists were narrowed to push an
        item: else it is trained once per log."""
        lake, size = self._attacked(attack, defence), self._config.size
        home, clean = lake.parent, defence.of_training
        version = f"{home.name}-{'judged' if clean else 'all'}"
        bundles = self._home / "bundles"
        if (bundles / version).exists():
            return open_bundle(bundles / version)
        log = read_log(lake)
        towers, rows, verdicts = self._home / version, log, Verdicts()
        if clean:
            tallies = tally(log)
            verdicts = Verdicts.of(tallies)
            rows = trusted(log, verdicts)
            judgement = Judgement(
                dict(verdicts.left_out), weights_of(tallies, verdicts, self.now_ms // MS_PER_DAY - 1)
            )
            atomic_write(towers / TRUST, msgspec.json.encode(judgement))
        ranker = towers if verdicts.lists.num_rows else home
        if not (ranker / "ranker").exists():
            console.print(f"next: train the ranker on {ranker.name}")
            examples, items = ranker / "examples", lake / "items" / "items.parquet"
            days = self._config.example_days
            write_examples(log, items, examples, days, nightly=False, verdicts=verdicts)
            train_own_ranker(size, self._seed, ranker, lake, examples)
        console.print(f"next: train the two-tower on {version}")
        train_towers(size, self._seed, towers, lake, sequences(rows))
        return publish.main(
            PublishConfig(
                lake=lake,
                two_tower=towers / "two_tower",
                ranker=ranker / "ranker",
                bundles=bundles,
                examples=towers,
                version=version,
            )
        )

    def _lake(self, log: str) -> Path:
        return self._home / log / "lake"

    def _attacked(self, attack: str, defence: Defence) -> Path:
        """The lake of the log that this attack leaves. Honest users' clients send tokens, so their events stay."""
        proven = defence is Defence.ALL and attack != CLEAN
        log = f"{attack}-tokens" if proven else attack
        lake = self._lake(log)
        if not lake.exists():
            shutil.copytree(self._lake(CLEAN), lake)
            events = ATTACKS[attack](self.scene)
            self._write(log, attack, list(with_tokens(events) if proven else events))
        return lake

    def _write(self, log: str, name: str, events: list[Event]) -> None:
        with day_writer(self._lake(log), EVENTS, name) as writer:
            writer.write(events_table(events))


def _searches(world: World, log: pa.Table, seed: int) -> list[Event]:
    """Honest clicks that no list has brought about: another user's click, a while later, without its request."""
    rng = np.random.default_rng((seed, 9))
    clicks = log.filter(pc.equal(log.column("type"), EventType.CLICK))
    chosen = np.flatnonzero(rng.random(len(clicks)) < _SEARCHED)
    users = rng.integers(0, world.config.users, len(chosen))
    found = []
    for n, (user, row) in enumerate(
        zip(users.tolist(), clicks.take(pa.array(chosen)).to_pylist(), strict=True)
    ):
        context = {name: row[name] for name in ("categories", "creator") if row[name]}
        time_ms = row[TIME] - int(rng.integers(0, 3_600_000))
        found.append(
            Event(f"search-{n}", EventType.CLICK, f"u{user}", row["item_id"], time_ms, context=context)
        )
    return found


def _counts(log: pa.Table, world: World) -> Ints:
    """(I,) clicks of every item."""
    clicks = log.filter(pc.equal(log.column("type"), EventType.CLICK))
    rows = [row_of(item) for item in clicks.column("item_id").to_pylist()]
    return np.bincount(rows, minlength=len(world.quality))
