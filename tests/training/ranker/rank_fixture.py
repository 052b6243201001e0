"""A small set of labelled impressions with a known truth, written as the feature job writes them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from training.features.packing import OF_A_LIST, bytes_of

DAY_MS = 86_400_000
N_FEATURES = 5
EXAMPLE_SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("event_time_ms", pa.int64()),
        ("position", pa.int64()),
        ("click", pa.int8()),
        ("conversion", pa.int8()),
        ("like", pa.int8()),
        ("dwell_ms", pa.int64()),
        ("sampled", pa.bool_()),
        *((name, pa.list_(of)) for name, of in OF_A_LIST.items()),
        ("features", pa.binary()),
    ]
)
ITEM_SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("title", pa.string()),
        ("categories", pa.list_(pa.string())),
        ("creator", pa.string()),
        ("created_ms", pa.int64()),
        ("attributes", pa.map_(pa.string(), pa.string())),
    ]
)


def write_world(folder: Path, rows: int = 4_000, n_items: int = 40, seed: int = 0) -> None:
    """A click follows three things: feature 0, the item's own quality, and whether the user's history holds the
    item's category. Half of the clicks convert, a tenth are liked; dwell grows with feature 1. Feature 2 is
    constant, feature 3 is NaN in a tenth of the rows, feature 4 is noise.
    """
    rng = np.random.default_rng(seed)
    item_ids = [f"i{n:03d}" for n in range(n_items)]
    quality = rng.normal(0, 0.7, n_items)
    category = np.arange(n_items) % 4
    items = {
        "item_id": item_ids,
        "title": item_ids,
        "categories": [[f"c{c}"] for c in category],
        "creator": ["" for _ in item_ids],
        "created_ms": [0] * n_items,
        "attributes": [[] for _ in item_ids],
    }
    (folder / "items").mkdir(parents=True)
    pq.write_table(pa.table(items, schema=ITEM_SCHEMA), folder / "items" / "items.parquet")

    times = np.sort(rng.integers(10 * DAY_MS, 14 * DAY_MS, rows))
    users = rng.integers(0, rows // 20, rows)
    shown = rng.integers(0, n_items, rows)
    features = rng.normal(size=(rows, N_FEATURES)).astype(np.float32)
    features[:, 2] = 7.0
    features[rng.random(rows) < 0.1, 3] = np.nan
    history = [rng.integers(0, n_items, rng.integers(0, 6)) for _ in range(rows)]
    liked = np.array([(category[h] == category[i]).any() for h, i in zip(history, shown, strict=True)])
    log_odds = 1.2 * features[:, 0] + quality[shown] + 1.0 * liked - 1.0
    click = rng.random(rows) < 1 / (1 + np.exp(-log_odds))
    dwell = np.where(click, np.exp(features[:, 1] + 2) * 1000, 500.0)
    columns = {
        "request_id": [f"r{i}" for i in range(rows)],
        "user_id": [f"u{u}" for u in users],
        "item_id": [item_ids[i] for i in shown],
        "event_time_ms": times,
        "position": rng.integers(0, 10, rows),
        "click": click.astype(np.int8),
        "conversion": (click & (rng.random(rows) < 0.5)).astype(np.int8),
        "like": (click & (rng.random(rows) < 0.1)).astype(np.int8),
        "dwell_ms": dwell.astype(np.int64),
        "sampled": np.zeros(rows, bool),
        "history_items": [[item_ids[i] for i in h] for h in history],
        "history_types": [["click"] * len(h) for h in history],
        **dict.fromkeys(("tally_buckets", "tally_looks", "tally_clicks"), [[]] * rows),
        "history_times": [
            sorted(int(t) - 1000 * int(s) for s in rng.integers(1, 9999, len(h)))
            for t, h in zip(times, history, strict=True)
        ],
        "features": bytes_of(features),
    }
    table = pa.table(columns, schema=EXAMPLE_SCHEMA)
    for day in range(10, 14):
        path = folder / "examples" / f"dt=1970-01-{day + 1:02d}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(table.filter(pa.array(times // DAY_MS == day)), path)
