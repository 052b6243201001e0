from dataclasses import replace

import numpy as np

from recsys.contracts.types import MS_PER_MINUTE, Head
from training.ranker.clean import Cleaning, clean
from training.ranker.dataset import RankExamples


def people(users: int = 200, rows: int = 40, seed: int = 0) -> RankExamples:
    """Users with a click rate of about .4, one impression every ten minutes."""
    rng = np.random.default_rng(seed)
    n = users * rows
    click = (rng.random(n) < 0.4).astype(np.float32)
    labels = np.stack([click, click * 0, click * (rng.random(n) < 0.05), click * 2], axis=1).astype(
        np.float32
    )
    return RankExamples(
        history=np.zeros((n, 1), np.int32),
        types=np.zeros((n, 1), np.int8),
        gaps=np.zeros((n, 1), np.int8),
        items=rng.integers(1, 1_000, n),
        features=np.zeros((n, 1), np.float32),
        position=np.zeros(n, np.int64),
        labels=labels,
        users=np.repeat(np.arange(users), rows),
        time_ms=np.tile(np.arange(rows) * 10 * MS_PER_MINUTE, users),
    )


def test_ordinary_people_stay() -> None:
    found = clean(people(), Cleaning())
    assert found.removed == {
        "repeated": 0,
        "shown too fast": 0,
        "clicks everything": 0,
        "isolated rates": 0,
    }
    assert len(found.examples) == len(people())


def test_planted_bots_go_and_nobody_else() -> None:
    rows = people()
    time_ms, labels = rows.time_ms.copy(), rows.labels.copy()
    time_ms[rows.users == 3] = 5 * MS_PER_MINUTE + np.arange(40)  # forty items within forty milliseconds
    labels[rows.users == 7] = [1, 0, 0, 2]  # clicks everything
    labels[rows.users == 11] = np.where(np.arange(40) % 2, 1, 0)[:, None] * [1, 0, 1, 2]  # likes every click
    found = clean(
        replace(rows, time_ms=time_ms, labels=labels.astype(np.float32)),
        Cleaning(shown_per_minute=30, always_clicks=40, isolated_share=0.005),
    )
    assert found.removed == {
        "repeated": 0,
        "shown too fast": 40,
        "clicks everything": 40,
        "isolated rates": 40,
    }
    assert set(range(200)) - set(found.examples.users.tolist()) == {3, 7, 11}


def test_repeated_rows_are_counted_once_and_a_like_implies_its_click() -> None:
    rows = people(users=2)
    twice = rows.take(np.r_[np.arange(len(rows)), 0, 1])
    labels = twice.labels.copy()
    labels[5] = [0, 0, 1, 0]
    found = clean(replace(twice, labels=labels), Cleaning())
    assert found.removed["repeated"] == 2
    assert found.corrected["liked without a click"] == 1
    assert found.examples.label(Head.CLICK)[5] == 1
