"""The figures are those that quickstart prints; the run itself is in tests/e2e/test_quickstart.py."""

from pathlib import Path

import pytest

from infra.evaluation.benchmarks import first_answer
from infra.evaluation.benchmarks.first_answer import EXAMPLES, Answer, run
from recsys.contracts.errors import InvalidData
from recsys.result import Goal

ROOT = Path(__file__).parents[4]


def test_the_figures_of_each_folder_are_the_phases_the_rest_and_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    for name in ("events.csv", "mapping.yaml"):
        (tmp_path / "shop" / name).touch()

    def answer(tables: Path, home: Path) -> Answer:
        assert [file.name for file in tables.iterdir()] == ["events.csv"], "what the columns mean is not said"
        seconds = {f"import {tables}": 2.0, "build the newest examples": 9.0, "to the first list": 11.5}
        return Answer(15.0, {"seconds": seconds, "before": [{}, {}]})

    monkeypatch.setattr(first_answer, "first_answer", answer)
    result = run([tmp_path / "shop"])
    assert result.figures == {
        "shop_s": 15.0,
        "shop_import_s": 2.0,
        "shop_build_s": 9.0,
        "shop_rest_s": 4.0,
        "shop_items": 2,
    }
    assert result.goals == {"shop_s": Goal("<=", 60), "shop_items": Goal(">", 0)}
    with pytest.raises(InvalidData, match="no such folder: nothing"):
        run([tmp_path / "shop", Path("nothing")])


def test_the_four_kinds_are_in_the_repository() -> None:
    assert len(EXAMPLES) == 4
    assert [folder for folder in EXAMPLES if not (ROOT / folder).is_dir()] == []
