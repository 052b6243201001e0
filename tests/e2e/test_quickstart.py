"""`recsys quickstart` on tables that nobody has described."""

from math import inf
from pathlib import Path

import numpy as np
import pytest

from infra.evaluation.benchmarks.first_answer import first_answer
from infra.loop import busy_user
from infra.quickstart import mapped
from recsys.contracts.errors import InvalidData
from recsys.contracts.events import Event
from recsys.contracts.types import EventType
from recsys.datasets.guessing import Guess
from recsys.datasets.mapping import read_mapping
from recsys.lake.lake import EVENTS, day_writer, events_table
from recsys.settings import Settings
from training.nightly.update import nights_since_full

USERS, ITEMS = 40, 30


def write_shop(folder: Path) -> None:
    """A shop's export: visitors view products of one kind, put some into the cart, buy some."""
    rng = np.random.default_rng(0)
    lines = ["timestamp,visitorid,event,itemid,transactionid"]
    for n in range(1_200):
        user = int(rng.integers(USERS))
        item = int(rng.integers(ITEMS // 3)) * 3 + user % 3
        event = rng.choice(["view", "addtocart", "transaction"], p=[0.8, 0.12, 0.08])
        lines.append(f"{1_600_000_000_000 + n * 1_800_000},{user},{event},{item},")
    folder.mkdir()
    (folder / "events.csv").write_text("\n".join(lines))


def test_known_data_need_no_guess_and_others_are_guessed_and_shown(tmp_path: Path) -> None:
    shown: list[tuple[Guess, Path]] = []
    shop = Path(__file__).parents[2] / "examples" / "shop"
    assert mapped([shop], tmp_path, lambda guess, file: shown.append((guess, file))) == (shop, None)
    assert not shown
    write_shop(tmp_path / "shop")
    folder, file = mapped([tmp_path / "shop" / "events.csv"], tmp_path, lambda g, f: shown.append((g, f)))
    assert (folder, file) == (tmp_path / "shop", tmp_path / "mapping.yaml")
    assert [path for _, path in shown] == [file]
    (tmp_path / "shop" / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,1600000000\n")
    _, file = mapped([tmp_path / "shop" / "events.csv"], tmp_path, lambda g, f: None)
    assert file is not None
    assert read_mapping(file).events.files == ["events.csv"], (
        "the file that was named, not its folder's data set"
    )
    with pytest.raises(InvalidData, match="no such file"):
        mapped([tmp_path / "nothing.csv"], tmp_path, lambda g, f: shown.append((g, f)))


def test_the_list_is_that_of_a_user_who_did_something(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    day_ms = 86_400_000
    with pytest.raises(InvalidData, match="nobody has"):
        busy_user(settings)
    log = [
        Event("a", EventType.CLICK, "clicks", "i", 1),
        Event("b", EventType.IMPRESSION, "sees", "i", day_ms),
    ]
    with day_writer(settings.lake, EVENTS, "test") as writer:
        writer.write(events_table(log))
    assert busy_user(settings) == "clicks"


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.kafka
@pytest.mark.redis
@pytest.mark.timeout(600)
def test_a_shops_export_gives_a_list(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_shop(tmp_path / "shop")
    answer = first_answer(tmp_path / "shop", tmp_path / "var")
    assert answer.outcome["counts"]["events imported"] == 1_200
    assert len(answer.outcome["before"]) == 10
    assert "visitorid → user" in capfd.readouterr().err
    assert answer.outcome["seconds"]["to the first list"] < answer.seconds
    assert (tmp_path / "var" / "quickstart" / "mapping.yaml").exists()
    work = tmp_path / "var" / "work"
    assert nights_since_full(work / "two_tower", work / "ranker") == inf, "the next night trains in full"
