"""A tiny data set in the files and columns of the KuaiRand-Pure slice, with a truth: videos differ, and so do users."""

from pathlib import Path

import numpy as np
import pandas as pd

from training.evaluation.kuairand.features import USER_CATEGORIES, USER_NUMBERS

DAYS = [20220425 + i for i in range(6)] + [20220501 + i for i in range(8)]  # 04-25 … 05-08
MIDNIGHT_MS = 1650816000000


def write_slice(folder: Path, users: int = 150, videos: int = 80, rows: int = 5_000, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    quality, patience = rng.normal(0, 1, videos), rng.normal(0, 1, users)
    duration = rng.integers(5_000, 90_000, videos)
    author = rng.integers(0, videos // 3, videos)
    user, video = rng.integers(0, users, rows), rng.integers(0, videos, rows)
    day = np.sort(rng.integers(0, len(DAYS), rows))
    clock = rng.integers(0, 86_400_000, rows)
    log_odds = quality[video] + patience[user] - 0.3
    click = rng.random(rows) < 1 / (1 + np.exp(-log_odds))
    long = click & (rng.random(rows) < 0.7)
    log = pd.DataFrame(
        {
            "user_id": user,
            "video_id": video,
            "date": np.array(DAYS)[day],
            "hourmin": clock // 3_600_000 * 100,
            "time_ms": MIDNIGHT_MS + day * 86_400_000 + clock,
            "is_click": click.astype(int),
            "is_like": (click & (rng.random(rows) < 0.2)).astype(int),
            "long_view": long.astype(int),
            "play_time_ms": np.where(long, duration[video], np.where(click, 4_000, 500)),
            "duration_ms": duration[video],
            "tab": rng.integers(0, 3, rows),
            "author_id": author[video],
            "video_duration": duration[video].astype(float),
            "freshness_days": rng.integers(0, 30, rows),
        }
    )
    validation = log["date"] <= DAYS[8]
    log[validation].to_parquet(folder / "val.parquet")
    log[~validation].to_parquet(folder / "test.parquet")
    people = pd.DataFrame({"user_id": np.arange(users)})
    for name in USER_CATEGORIES:
        people[name] = rng.choice(["low", "high"], users)
    for name in USER_NUMBERS:
        people[name] = rng.integers(0, 3, users)
    people.to_csv(folder / "user_features_pure.csv", index=False)
    table = pd.DataFrame({"video_id": np.arange(videos), "author_id": author})
    table["tag"] = rng.integers(0, 8, videos)
    table["video_type"], table["upload_type"] = "NORMAL", rng.choice(["a", "b"], videos)
    table["upload_dt"], table["video_duration"] = "2022-04-01", duration.astype(float)
    table["music_type"], table["server_width"], table["server_height"] = 9.0, 720.0, 1280.0
    table.to_csv(folder / "video_features_basic_pure.csv", index=False)
    watched = [rng.integers(0, videos, rng.integers(1, 30)) for _ in range(users)]
    finished = [w[rng.random(len(w)) < 1 / (1 + np.exp(-quality[w]))] for w in watched]
    pd.DataFrame(
        {
            "user_id": np.arange(users),
            "last_time_ms": MIDNIGHT_MS - 60_000,
            "history_len": [len(w) for w in watched],
            "watch_seq": watched,
            "like_seq": [f[:1] for f in finished],
            "long_watch_seq": finished,
        }
    ).to_parquet(folder / "user_sequences.parquet")
