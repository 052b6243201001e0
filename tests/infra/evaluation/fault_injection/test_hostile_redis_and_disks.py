"""Every attack of the drill on Redis and disks holds."""

from pathlib import Path

import pytest

from infra.evaluation.fault_injection.hostile.attacks import Attack
from infra.evaluation.fault_injection.hostile.redis_and_disks import ATTACKS


@pytest.mark.redis
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.run.__name__)
def test_the_attack_holds(attack: Attack, tmp_path: Path) -> None:
    assert attack.run(tmp_path)
