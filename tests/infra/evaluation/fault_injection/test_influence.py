"""The attacks of the drill, in small."""

from pathlib import Path

import pytest

from infra.evaluation.fault_injection.hostile.influence import made_up_ids, one_user_clicks

pytestmark = pytest.mark.redis


def test_one_users_clicks_count_as_one(tmp_path: Path) -> None:
    assert "behind those of two users" in one_user_clicks(tmp_path, clicks=300)


def test_made_up_ids_are_bounded_and_expire(tmp_path: Path) -> None:
    assert "leave 2000 and 2000" in made_up_ids(tmp_path, ids=3_000)
