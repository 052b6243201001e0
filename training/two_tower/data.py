"""What the two-tower's trainer reads: the sequences, the validation cut, the users' attributes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.contracts.errors import InvalidConfig
from recsys.contracts.types import Item
from recsys.datasets.catalogue import table_users
from recsys.features.definitions import FEATURES
from recsys.items.item_table import read_items
from recsys.models.encoding import TYPE_NUMBERS
from recsys.recall.repeat_consumption import RepeatPolicy
from training.choices import Augmentation
from training.two_tower.config import TwoTowerConfig, Validation
from training.two_tower.cooccurrence import interactions, item_neighbours
from training.two_tower.repeats import BeforeLast, learnt_repeats
from training.two_tower.retrieval import Cases, cases_after
from training.two_tower.sequences import BeforeTime, Cut, Profiles, SequenceFiles, keep_all


@dataclass(frozen=True)
class TrainingData:
    """What one phase trains on, and what it holds out."""

    items: Sequence[Item]
    files: SequenceFiles
    counts: Tensor  # (n_items,) events per item
    newest_ms: int  # time of the newest event that is trained on
    profiles: Profiles
    cut: Cut
    held_out: Cases | None
    repeats: RepeatPolicy = field(default_factory=RepeatPolicy)  # which seen items may return


def read_training_data(config: TwoTowerConfig) -> TrainingData:
    """Passes over the files: how often each item occurs, whether people come back to them, and what is held out; where
    no user has an item to predict after the validation cut, everything is trained on and nothing held out."""
    items = read_items(config.items)
    files = SequenceFiles(config.sequences, items)
    repeats = learnt_repeats(files.read()) if config.repeats is None else RepeatPolicy(config.repeats)
    cut = _cut(config, files, bool(repeats.days))
    data = replace(counted(items, files, _profiles(config), cut), repeats=repeats)
    if config.validation is Validation.NONE:
        return data
    cases = cases_after(files.read(), cut, wanted_type(config), bool(repeats.days))
    if not len(cases):
        return everything(data)
    return replace(data, held_out=cases.sample(config.validation_cases, config.seed))


def everything(data: TrainingData) -> TrainingData:
    """The same without anything held out."""
    return replace(counted(data.items, data.files, data.profiles, keep_all), repeats=data.repeats)


def wanted_type(config: TwoTowerConfig) -> int:
    """Number of the event type that makes a target; 0: any."""
    return TYPE_NUMBERS[config.wanted] if config.wanted else 0


def _profiles(config: TwoTowerConfig) -> Profiles:
    if not config.shape.profile:
        return Profiles()
    if config.users is None or not config.users.exists():
        raise InvalidConfig(
            "shape.profile: needs the users' static attributes; set `users`, or leave `profile` off"
        )
    return Profiles(table_users(pq.read_table(config.users)), FEATURES.user_attributes)


def counted(items: Sequence[Item], files: SequenceFiles, profiles: Profiles, cut: Cut) -> TrainingData:
    """One pass over the histories up to the cut; holds nothing out."""
    counts, newest = np.zeros(len(items), np.int64), 0
    for history in files.read():
        trained_on = history.before(cut(history))
        counts += np.bincount(trained_on.numbers - 1, minlength=len(items))
        newest = max(newest, int(trained_on.times[-1]) if len(trained_on.times) else 0)
    return TrainingData(items, files, torch.from_numpy(counts), newest, profiles, cut, None)


def _cut(config: TwoTowerConfig, files: SequenceFiles, repeats: bool) -> Cut:
    if config.validation is Validation.NONE:
        return keep_all
    if config.validation is Validation.LAST_ITEM:
        return BeforeLast(repeats)
    if config.validation_from_ms:
        return BeforeTime(config.validation_from_ms)
    times = np.concatenate([h.times for h in files.read()] or [np.zeros(1, np.int64)])
    if times.min() <= 0:  # events without times
        return BeforeLast(repeats)
    return BeforeTime(int(np.quantile(times, 1 - config.validation_share)))


def substitutes(config: TwoTowerConfig, data: TrainingData) -> NDArray[np.int32] | None:
    """The neighbours that `Augmentation.SUBSTITUTE` draws from; None for other augmentations."""
    if config.augmentation is not Augmentation.SUBSTITUTE:
        return None
    histories = [history.before(data.cut(history)) for history in data.files.read()]
    return item_neighbours(interactions(histories, len(data.items)), m=10)[0]
