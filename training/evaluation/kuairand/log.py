"""The KuaiRand slice as labelled rows, with the model benchmark's features.

Split: train ≤ 05-02, validation 05-03, test 05-04 … 05-08 (data days). Rows are every impression of the standard
policy, duplicates of (user, video, time) dropped. Whole-period counts of `item_features.parquet` leak the future and
are not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from recsys.contracts.types import EventType, Head
from recsys.models.encoding import TYPE_NUMBERS
from training.evaluation.kuairand.features import TEST_FROM, TRAIN_UNTIL, VALIDATION_DAY, FeatureGroups
from training.ranker.dataset import ItemFields, RankExamples

FILES = (
    "val.parquet",
    "test.parquet",
    "user_features_pure.csv",
    "video_features_basic_pure.csv",
    "user_sequences.parquet",
)


@dataclass(frozen=True)
class Kuairand:
    """n rows in time order. `labels`: click, long_view, like (0/1), dwell_s. `groups`: feature names by group;
    `features`: (n,) float32 by name. `sequences`: user id → (video ids, long-watched or not) before 04-25."""

    users: NDArray[np.int64]
    videos: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    date: NDArray[np.int64]
    labels: Mapping[str, NDArray[np.float64]]
    groups: Mapping[str, tuple[str, ...]]
    features: Mapping[str, NDArray[np.float32]]
    video_table: pd.DataFrame
    sequences: pd.DataFrame

    def matrix(self, names: tuple[str, ...]) -> NDArray[np.float32]:
        return np.stack([self.features[name] for name in names], axis=1)

    def by_head(self) -> dict[str, NDArray[np.float64]]:
        """The labels that the heads predict: 0/1, and log1p seconds for dwell."""
        found = {name: column for name, column in self.labels.items() if name != "dwell_s"}
        return {**found, "dwell": np.log1p(self.labels["dwell_s"])}

    def names(self, *groups: str) -> tuple[str, ...]:
        """Features of the groups, all of them by default."""
        return tuple(name for group in (groups or self.groups) for name in self.groups[group])


def is_slice(folder: Path) -> bool:
    """Whether the folder has the files of the KuaiRand-Pure slice."""
    return not _missing(folder)


def load(folder: Path) -> Kuairand:
    """Read the slice and compute every feature group.

    Raises:
        InvalidData: a file is missing.
    """
    missing = _missing(folder)
    if missing:
        raise InvalidData(f"{folder}: lacks {', '.join(missing)}; pass the folder of the KuaiRand-Pure slice")
    log = pd.concat([pd.read_parquet(folder / "val.parquet"), pd.read_parquet(folder / "test.parquet")])
    log = log.drop_duplicates(["user_id", "video_id", "time_ms"]).sort_values("time_ms", kind="stable")
    log = log.reset_index(drop=True)
    users = pd.read_csv(folder / "user_features_pure.csv").set_index("user_id")
    videos = pd.read_csv(folder / "video_features_basic_pure.csv").set_index("video_id")
    sequences = pd.read_parquet(folder / "user_sequences.parquet").set_index("user_id")
    builder = FeatureGroups(log, users, videos, sequences)
    return Kuairand(
        users=builder.user,
        videos=builder.video,
        time_ms=builder.time,
        date=log["date"].to_numpy(np.int64),
        labels={
            "click": builder.click,
            "long_view": builder.long,
            "like": builder.like,
            "dwell_s": builder.play_s,
        },
        groups={group: tuple(names) for group, names in builder.groups.items()},
        features=builder.columns,
        video_table=videos,
        sequences=sequences,
    )


# Feature columns that are codes: the ranker embeds them instead of reading them as numbers.
CODES = (
    *("tag", "tab", "hour", "weekday", "user_active_degree", "page_before"),
    *(f"onehot_feat{i}" for i in (1, 2, 3, 7, 8, 10, 11)),
)
LENGTH = 50


def examples(data: Kuairand, names: tuple[str, ...]) -> RankExamples:
    """The rows as the ranker reads them. Item number = place of the video in the video table + 1; the history is the
    sequence before 04-25: shown, finished (purchase), liked, without times."""
    numbers = {int(video): i + 1 for i, video in enumerate(data.video_table.index)}
    history = {user: _encoded(row, numbers) for user, row in data.sequences.iterrows()}
    nothing = np.zeros((2, LENGTH), np.int64)
    encoded = np.stack([history.get(user, nothing) for user in data.users.tolist()])
    labels = {
        Head.CLICK: data.labels["click"],
        Head.CONVERSION: data.labels["click"] * data.labels["long_view"],
        Head.LIKE: data.labels["like"],
        Head.DWELL: np.log1p(data.labels["dwell_s"]),
    }
    return RankExamples(
        history=encoded[:, 0].astype(np.int32),
        types=encoded[:, 1].astype(np.int8),
        gaps=np.zeros(encoded[:, 0].shape, np.int8),
        items=np.array([numbers.get(video, 0) for video in data.videos.tolist()], np.int64),
        features=data.matrix(names),
        position=np.zeros(len(data.users), np.int64),
        labels=np.stack([labels[head] for head in Head], axis=1).astype(np.float32),
        users=data.users,
        time_ms=data.time_ms,
    )


def video_fields(data: Kuairand) -> ItemFields:
    """Author, main tag, type of video, of upload and of music, by item number."""
    table = data.video_table
    columns = [
        pd.factorize(values, sort=True)[0] + 1
        for values in (
            table["author_id"].where(table["author_id"].duplicated(keep=False)),
            table["tag"].astype(str).str.split(",").str[0],
            table["video_type"],
            table["upload_type"],
            table["music_type"],
        )
    ]
    codes = np.concatenate([np.zeros((1, len(columns)), np.int64), np.stack(columns, axis=1)])
    return ItemFields(codes, tuple(int(c.max()) + 1 for c in columns))


def categorical(data: Kuairand, names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """(column, size) of `CODES` among `names`, for `RankerData`."""
    return tuple((i, int(np.nanmax(data.features[n])) + 1) for i, n in enumerate(names) if n in CODES)


def split(data: Kuairand) -> dict[str, NDArray[np.bool_]]:
    """Row masks: train, validation, test."""
    return {
        "train": data.date <= TRAIN_UNTIL,
        "validation": data.date == VALIDATION_DAY,
        "test": data.date >= TEST_FROM,
    }


def _encoded(row: pd.Series, numbers: Mapping[int, int]) -> NDArray[np.int64]:
    """(2, LENGTH): item numbers and event types of one old sequence, newest last, left-padded."""
    finished, liked = set(row["long_watch_seq"]), set(row["like_seq"])
    found = np.zeros((2, LENGTH), np.int64)
    watched = [video for video in row["watch_seq"] if video in numbers][-LENGTH:]
    for place, video in enumerate(watched, start=LENGTH - len(watched)):
        kind = EventType.PURCHASE if video in finished else EventType.IMPRESSION
        found[:, place] = numbers[video], TYPE_NUMBERS[EventType.LIKE if video in liked else kind]
    return found


def _missing(folder: Path) -> list[str]:
    return [name for name in FILES if not (folder / name).exists()]
