"""The documented example, and what its model answers: as the API does from the same bundle and log."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from infra.notebook import Recommender
from infra.notebook.evaluation import last_item
from recsys.bundle import current_version
from recsys.contracts.errors import InvalidBundle, InvalidConfig, InvalidData, InvalidFilter
from recsys.contracts.types import Topic
from recsys.features.definitions import FEATURES
from recsys.lake.lake import EVENTS, read_events
from recsys.store.base import Batch
from recsys.store.memory import MemoryFeatureStore
from serving.api.app import create_app
from serving.assembly import Services, compose
from serving.settings import ServingSettings
from serving.telemetry import Telemetry
from tests.memory_event_log import MemoryEventLog

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).parents[3] / "docs" / "python.md"
USERS, MOVIES, GROUPS = 40, 60, 3


def ratings() -> pd.DataFrame:
    """Users of a group rate movies of their group, each once, and its first ones most."""
    rng = random.Random(0)
    rows: dict[tuple[int, int], tuple[float, int]] = {}
    for n in range(1_500):
        user, place = rng.randint(1, USERS), int(MOVIES // GROUPS * rng.random() ** 2)
        movie = place * GROUPS + user % GROUPS + 1
        rows.setdefault((user, movie), (rng.choice([3.0, 4.0, 5.0]), 1_700_000_000 + 600 * n))
    columns = ["userId", "movieId", "rating", "timestamp"]
    return pd.DataFrame([(*key, *row) for key, row in rows.items()], columns=columns)


def movies() -> pd.DataFrame:
    ids = range(1, MOVIES + 1)
    genres = [["Drama", "Comedy|War", "Horror"][i % GROUPS] for i in ids]
    titles = {"title": [f"Movie {i}" for i in ids], "title_de": [f"Film {i}" for i in ids]}
    return pd.DataFrame({"movieId": ids, **titles, "genres": genres})


@dataclass
class Documented:
    """What the documented example leaves: its model, in the folder that it was run in."""

    folder: Path
    model: Recommender[Any]


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Documented]:
    folder = tmp_path_factory.mktemp("notebook")
    ratings().to_csv(folder / "ratings.csv", index=False)
    movies().to_csv(folder / "movies.csv", index=False)
    example, *_ = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 10
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(example, names)  # noqa: S102 - the document's own code
    yield Documented(folder, names["model"])


@pytest.fixture(scope="module")
def api(documented: Documented) -> Iterator[TestClient]:
    """An API on the saved folder, at the model's time, whose store has folded the saved lake's events."""
    home, store = documented.folder / "var", MemoryFeatureStore(FEATURES)
    events = list(read_events(home / "lake"))
    now_ms = events[-1].event_time_ms + 1
    epoch = store.claim(Topic.EVENTS, 0, "log").epoch
    places = list(range(len(events)))
    store.apply(Batch(Topic.EVENTS, 0, epoch, 0, len(events), now_ms - 1, places, events))

    def services(given: ServingSettings, telemetry: Telemetry) -> Services:
        return compose(given, telemetry, store, store, MemoryEventLog(), now_ms=lambda: now_ms)

    with TestClient(create_app(ServingSettings(home=home, deadline_ms=20_000), services)) as client:
        yield client


def test_lists_are_those_of_the_api(documented: Documented, api: TestClient) -> None:
    model = documented.model
    for user in (*range(1, 9), "nobody"):
        found = model.recommend(user, k=10, exclude=[5])
        body = {"user_id": str(user), "k": 10, "exclude": ["5"]}
        answer = api.post("/v1/recommendations", json=body).json()
        assert answer["degraded"] == []
        assert found["item_id"].tolist() == [int(item["item_id"]) for item in answer["items"]]
        assert found["score"].tolist() == pytest.approx([item["score"] for item in answer["items"]], abs=1e-6)
        assert found["title"].tolist() == [item["title"] for item in answer["items"]]
        assert found["channels"].tolist() == ["|".join(item["channels"]) for item in answer["items"]]
    near = api.get("/v1/items/1/similar?k=5").json()["items"]
    assert model.similar(1, k=5)["item_id"].tolist() == [int(item["item_id"]) for item in near]


def test_a_list_leaves_out_what_the_user_has_and_has_the_types_of_the_frame(documented: Documented) -> None:
    log = ratings()
    found = documented.model.recommend([1, 7], k=10)
    assert isinstance(found, pd.DataFrame)
    assert list(found.columns) == ["user_id", "rank", "item_id", "score", "title", "categories", "channels"]
    assert found["user_id"].tolist() == [1] * 10 + [7] * 10
    assert found["rank"].tolist() == [*range(1, 11)] * 2
    seen = set(zip(log["userId"], log["movieId"], strict=True))
    assert not seen & set(zip(found["user_id"], found["item_id"], strict=True))
    assert found.merge(movies(), left_on="item_id", right_on="movieId")["title_x"].tolist()
    first = documented.model.recommend(7, k=3, exclude=[found["item_id"][10]])
    assert found["item_id"][10] not in first["item_id"].tolist()


def test_unknown_users_get_what_is_popular(documented: Documented) -> None:
    found = documented.model.recommend(["new", "newer"], k=5)
    lists = found.groupby("user_id")["item_id"].apply(list)
    assert lists["new"] == lists["newer"]
    assert found["channels"].str.contains("popular").all()


def test_a_list_has_what_its_filter_wants(documented: Documented) -> None:
    model = documented.model
    found = model.recommend([1, 2], k=50, filter="'War' in categories")
    assert len(found)
    assert all("War" in categories.split("|") for categories in found["categories"])
    near = model.similar(3, k=50, filter="'War' in categories")
    assert all("War" in categories.split("|") for categories in near["categories"])
    assert model.explain(1, filter="'War' in categories")["removed"]["eligibility"]["filter"]["count"]
    with pytest.raises(InvalidFilter, match="no item has 'colour'"):
        model.recommend(1, filter="colour == 'red'")


def test_titles_are_in_the_language_that_is_asked_for(documented: Documented) -> None:
    model = documented.model
    for found in (model.recommend(1, language="de-AT"), model.similar(3, language="de")):
        assert list(found["title"]) == [f"Film {i}" for i in found["item_id"]]
    assert list(model.similar(3)["title"]) == [f"Movie {i}" for i in model.similar(3)["item_id"]]


def test_a_list_without_items_has_its_columns(documented: Documented) -> None:
    found = documented.model.recommend(1, exclude=range(1, MOVIES + 1))
    assert list(found.columns) == list(documented.model.recommend(1).columns)
    assert (len(found), str(found["item_id"].dtype)) == (0, "int64")


def test_what_cannot_be_answered_is_refused(documented: Documented) -> None:
    model = documented.model
    with pytest.raises(InvalidData, match="item '61' is not in the catalogue"):
        model.similar([1, 61])
    for k in (0, 201):
        with pytest.raises(InvalidData, match=f"k: {k} items; from 1 to 200"):
            model.recommend(1, k=k)
    for ask in (model.recommend, model.similar):
        with pytest.raises(InvalidData, match="language: 'german' is not a language tag"):
            ask(1, language="german")
    with pytest.raises(InvalidData, match="no ids"):
        model.recommend([])
    with pytest.raises(InvalidData, match="missing"):
        model.recommend([1, None])


def test_the_baselines_of_an_evaluation_are_where_they_must_be(documented: Documented) -> None:
    """Movies of the other groups are as popular, and item-kNN never ranks them."""
    table = documented.model.evaluate(cases=30).set_index("model")
    assert table.index.tolist() == ["two_tower", "item_knn", "popularity"]
    assert (table["cases"] <= 30).all()
    assert ((table.drop(columns="cases") >= 0) & (table.drop(columns="cases") <= 1)).all(axis=None)
    assert table.loc["item_knn", "mrr"] > table.loc["popularity", "mrr"]
    assert table.loc["two_tower", "mrr"] > table.loc["popularity", "mrr"]


def test_a_saved_model_gives_the_same_lists(documented: Documented) -> None:
    model, home = documented.model, documented.folder / "var"
    assert current_version(home / "bundles") == model.bundle.manifest.version
    loaded = Recommender.load(home, pd.DataFrame, progress=False)
    pd.testing.assert_frame_equal(loaded.recommend([1, 7]), model.recommend([1, 7]))
    assert isinstance(Recommender.load(home).recommend(1, k=1), pa.Table)
    assert loaded.save(home) == model.save(home), "again, over itself"
    copied = loaded.save(documented.folder / "copy")
    assert copied.parent.parent == documented.folder / "copy"
    pd.testing.assert_frame_equal(
        Recommender.load(documented.folder / "copy", pd.DataFrame).similar(3), model.similar(3)
    )


def test_another_lake_is_not_replaced(documented: Documented, tmp_path: Path) -> None:
    (tmp_path / "lake" / "imports").mkdir(parents=True)
    (tmp_path / "lake" / "imports" / "shop.json").write_text("{}")
    with pytest.raises(InvalidConfig, match="has other data"):
        documented.model.save(tmp_path)
    assert not (tmp_path / "bundles").exists()
    with pytest.raises(InvalidBundle, match="no bundle"):
        Recommender.load(tmp_path)


def test_what_was_archived_since_is_not_deleted(documented: Documented, tmp_path: Path) -> None:
    documented.model.save(tmp_path)
    documented.model.save(tmp_path)  # the same frames replace themselves
    day = next((tmp_path / "lake" / EVENTS).iterdir())
    (day / "day-0011223344556677.parquet").write_bytes(b"archived")
    with pytest.raises(InvalidConfig, match="has other data"):
        documented.model.save(tmp_path)
    assert (day / "day-0011223344556677.parquet").exists()


def test_a_nights_bundle_is_not_evaluated_as_if_it_were_new(documented: Documented) -> None:
    settings = {**documented.model.bundle.manifest.models["two_tower"], "start": "yesterday"}
    with pytest.raises(InvalidConfig, match="continued from earlier weights"):
        last_item(documented.model.home, settings, False, 10, 0, lambda *_: None)


def test_an_explanation_has_the_list(documented: Documented) -> None:
    funnel = documented.model.explain(7, k=3)
    shown = [int(line["item_id"]) for line in funnel["shown"]]
    assert shown == documented.model.recommend(7, k=3)["item_id"].tolist()
    assert {"stages", "channels", "removed"} <= funnel.keys()


def test_a_wrong_setting_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(InvalidConfig, match="did you mean learning_rate"):
        Recommender.fit(ratings(), learning_rat=1.0)
    with pytest.raises(InvalidConfig, match="rank_epochs"):
        Recommender.fit(ratings(), rank_epochs=0)
