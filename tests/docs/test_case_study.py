"""The table of the case study in documents is what the stored results say, number by number."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.evaluation.case_study import document
from infra.evaluation.case_study.document import (
    BEGIN,
    BEGIN_EFFECT,
    DOCUMENT,
    END,
    END_EFFECT,
    ROOT,
    written,
)
from infra.evaluation.case_study.document import RESULTS as STORED
from infra.evaluation.case_study.plots import seeds_plot
from infra.evaluation.case_study.rows import PROMISES
from recsys.contracts.errors import InvalidData

RESULTS: dict[str, Any] = {
    "run": "recsys case-study --quick",
    "seed": 3,
    "hardware": {"cores": 2},
    "rows": [
        {
            "row": "ctr", "what": "simulated A/B", "unit": "clicks", "promised": 0.15, "ours_at_least": 0.15,
            "before": 0.1, "after": 0.125, "change": 0.25, "interval": [0.2, 0.3], "simulated": True, "met": True,
        },
        {
            "row": "memory", "what": "RSS", "unit": None, "promised": -0.75, "ours_at_least": -0.8,
            "before": None, "after": None,
            "change": None, "interval": None, "simulated": None, "met": None,
        },
    ],
}  # fmt: skip


def test_documents_say_what_the_stored_results_say() -> None:
    results = json.loads(STORED.read_text(encoding="utf-8"))
    assert [row["row"] for row in results["rows"]] == [promise.row for promise in PROMISES]
    texts = {path: path.read_text(encoding="utf-8") for path in (DOCUMENT, *ROOT.glob("*.md"))}
    assert BEGIN in texts[DOCUMENT]
    for path, text in texts.items():
        assert text == written(text, results), (
            f"{path.name}: run `python -m infra.evaluation.case_study.document`"
        )


def test_a_changed_number_is_put_right() -> None:
    text = written(f"# A\n{BEGIN}\n{END}\ntail", RESULTS)
    assert "| ctr (clicks, *simulated*) | +15% | +15% | 0.1 | 0.125 | +25.0% [+20.0%, +30.0%] | met |" in text
    assert "| memory (RSS) | -75% | -80% | | | | not measured |" in text
    assert text.endswith(f"{END}\ntail")
    assert written(text, RESULTS) == text
    assert written(text.replace("0.125", "0.135"), RESULTS) == text


def test_a_seeds_rows_replace_those_of_the_whole_run_and_no_seed_is_hidden() -> None:
    row = RESULTS["rows"][0]
    again = row | {"before": 0.2, "after": 0.21, "change": 0.05, "interval": [0.01, 0.09], "met": False}
    part = again | {"part": "against a fair before"}
    effects = [
        {"run": f"effect {n}", "seed": n, "hardware": {"cores": 1}, "rows": [rows], "parts": [part]}
        for n, rows in ((0, row | {"change": 0.4, "interval": [0.3, 0.5], "after": 0.14}), (7, again))
    ]
    blank = f"{BEGIN}\n{END}\n{BEGIN_EFFECT}\n{END_EFFECT}"
    text = written(blank, RESULTS | {"effects": effects})
    assert "| 0.1 | 0.14 | +40.0% [+30.0%, +50.0%] | met |" in text
    assert "Rows ctr: `effect 0`, seed 0" in text
    assert "With seed 7, ctr **missed** the goal." in text
    assert "| ctr | +15% | +40.0% [+30.0%, +50.0%] | +5.0% [+1.0%, +9.0%] **missed** |" in text
    assert "| ctr, against a fair before | | +5.0% [+1.0%, +9.0%] | +5.0% [+1.0%, +9.0%] |" in text
    assert seeds_plot(effects).startswith(b"\x89PNG")


def test_rows_of_a_section_that_was_measured_later_say_so() -> None:
    row = RESULTS["rows"][0] | {"after": 0.15, "change": 0.5, "interval": None, "simulated": False}
    section = {"run": "one section", "seed": 3, "hardware": {"cores": 1}, "rows": [row], "parts": []}
    text = written(f"{BEGIN}\n{END}", RESULTS | {"sections": [section]})
    assert "| 0.1 | 0.15 | +50.0% | met |" in text
    assert "Rows ctr: `one section`, seed 3" in text


def test_a_section_that_is_stored_later_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, page = tmp_path / "results.json", tmp_path / "page.md"
    stored.write_text(json.dumps(RESULTS))
    page.write_text(f"{BEGIN}\n{END}")
    monkeypatch.setattr(document, "RESULTS", stored)
    monkeypatch.setattr(document, "DOCUMENT", page)
    for n, name in enumerate(("memory", "storage", "memory")):
        row = RESULTS["rows"][0] | {"row": name, "simulated": False}
        section = {"run": f"run {n}", "seed": 0, "hardware": {}, "rows": [row], "parts": []}
        (tmp_path / "section.json").write_text(json.dumps(section))
        document.main(stored, [tmp_path / "section.json"])
    assert [each["run"] for each in json.loads(stored.read_text())["sections"]] == ["run 1", "run 2"]


def test_a_row_may_keep_the_promise_and_miss_our_goal() -> None:
    row = RESULTS["rows"][0] | {
        "promised": -0.5,
        "ours_at_least": -0.9,
        "change": -0.7,
        "interval": None,
        "met": False,
    }
    assert "promise met, goal **missed**" in written(f"{BEGIN}\n{END}", RESULTS | {"rows": [row]})
    reaches_in = row | {"interval": [-0.8, -0.4]}
    assert "goal" not in written(f"{BEGIN}\n{END}", RESULTS | {"rows": [reaches_in]}).split("\n")[3]


def test_a_document_without_markers_is_left_alone_and_half_a_pair_is_refused() -> None:
    assert written("plain", RESULTS) == "plain"
    with pytest.raises(InvalidData, match="after it"):
        written(f"{BEGIN} and no end", RESULTS)
