from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidData
from training.features.trust import TRUST, Judgement
from training.publish import _judgement


def test_a_bundle_says_what_its_examples_say(tmp_path: Path) -> None:
    assert _judgement(None) == _judgement(tmp_path) == Judgement()
    (tmp_path / TRUST).write_text('{"left_out": {"item_days": 1}, "item_weights": {"a": [7, 8]}}')
    assert _judgement(tmp_path) == Judgement({"item_days": 1}, {"a": (7, 8)})


def test_a_damaged_judgement_is_named(tmp_path: Path) -> None:
    (tmp_path / TRUST).write_text("{")
    with pytest.raises(InvalidData, match=TRUST):
        _judgement(tmp_path)
