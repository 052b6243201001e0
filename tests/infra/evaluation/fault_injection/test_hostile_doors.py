"""The fault run that its logs are searched after: real API, feature worker and archiver."""

from pathlib import Path

import pytest

from infra.evaluation.fault_injection.hostile.doors import secrets_in_logs


@pytest.mark.slow
@pytest.mark.redis
@pytest.mark.kafka
def test_no_log_of_a_fault_run_has_a_secret(tmp_path: Path) -> None:
    assert "no secret" in secrets_in_logs(tmp_path)
