"""API keys: what opens, what does not and when no longer, and that the file gives nothing away."""

import json
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog

from recsys.contracts.errors import InvalidConfig
from recsys.watched_file import WatchedFile
from serving.api.security import ANYONE, Keys, new_key
from serving.problems import Problem
from serving.settings import Scope


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_without_a_file_anyone_may_do_anything() -> None:
    assert Keys(None).caller({}) is ANYONE
    for scope in Scope:
        ANYONE.allow(scope)


def test_a_key_opens_its_scopes_and_no_other(key_file: Path) -> None:
    key = new_key(key_file, "shop", [Scope.READ])
    keys = Keys(key_file)
    for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
        caller = keys.caller(headers)
        assert caller.name == "shop"
        caller.allow(Scope.READ)
        with pytest.raises(Problem, match="lacks the scope 'write'") as refused:
            caller.allow(Scope.WRITE)
        assert refused.value.status == 403


def test_admin_may_do_everything(key_file: Path) -> None:
    key = new_key(key_file, "root", [Scope.ADMIN])
    caller = Keys(key_file).caller({"x-api-key": key})
    for scope in Scope:
        caller.allow(scope)


def test_missing_malformed_unknown_and_wrong_keys_get_the_same_answer(key_file: Path) -> None:
    key = new_key(key_file, "shop", [Scope.READ])
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    answers = set()
    for sent in ("", "nonsense", "rk_nobody_" + key.split("_", 2)[2], wrong, key + "x"):
        with pytest.raises(Problem) as refused:
            Keys(key_file).caller({"x-api-key": sent})
        answers.add((refused.value.status, refused.value.detail))
    assert len(answers) == 1
    assert answers.pop()[0] == 401


def test_the_file_holds_no_key_and_only_its_owner_reads_it(key_file: Path) -> None:
    key = new_key(key_file, "shop", [Scope.READ])
    assert key not in key_file.read_text()
    assert key.split("_", 2)[2] not in key_file.read_text()
    assert key_file.stat().st_mode & 0o077 == 0


def test_names_are_unique_and_plain(key_file: Path) -> None:
    new_key(key_file, "shop", [Scope.READ])
    with pytest.raises(InvalidConfig, match="already"):
        new_key(key_file, "shop", [Scope.READ])
    with pytest.raises(InvalidConfig, match="letters"):
        new_key(key_file, "a_b", [Scope.READ])


def test_a_key_expires_and_says_so_to_its_owner_only(key_file: Path) -> None:
    key = new_key(key_file, "shop", [Scope.READ], timedelta(days=30))
    now = datetime.now(UTC)
    assert Keys(key_file, lambda: now + timedelta(days=29)).caller({"x-api-key": key}).name == "shop"
    later = Keys(key_file, lambda: now + timedelta(days=31))
    with pytest.raises(Problem, match="'shop' has expired"):
        later.caller({"x-api-key": key})
    with pytest.raises(Problem, match="send a valid API key"):
        later.caller({"x-api-key": key[:-1] + ("A" if key[-1] != "A" else "B")})


def test_a_key_is_revoked_and_a_new_one_opens_without_a_restart(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = new_key(key_file, "shop", [Scope.READ])
    keys = watched_at_once(key_file, monkeypatch)
    second = new_key(key_file, "app", [Scope.WRITE])
    assert {keys.caller({"x-api-key": key}).name for key in (first, second)} == {"shop", "app"}
    entries = json.loads(key_file.read_text())
    key_file.write_text(json.dumps([entry for entry in entries if entry["name"] != "shop"]))
    assert keys.caller({"x-api-key": second}).name == "app"
    with pytest.raises(Problem, match="send a valid API key"):
        keys.caller({"x-api-key": first})


@pytest.mark.parametrize(
    "content", ["", "[" * 100_000, "\xff", '[{"name": "shop"}]', "[]]"], ids=lambda c: c[:10]
)
def test_a_file_that_becomes_invalid_changes_nothing_and_is_reported(
    key_file: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    key = new_key(key_file, "shop", [Scope.READ])
    keys = watched_at_once(key_file, monkeypatch)
    key_file.write_text(content, encoding="latin-1")
    with structlog.testing.capture_logs() as logged:
        assert [keys.caller({"x-api-key": key}).name for _ in range(3)] == ["shop"] * 3
    assert [line["log_level"] for line in logged] == ["error"]
    assert str(key_file) in keys.error
    key_file.unlink()
    key_file.mkdir()
    assert keys.caller({"x-api-key": key}).name == "shop"
    assert "directory" in keys.error


def watched_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> Keys:
    """Keys that look at their file with every call."""
    monkeypatch.setattr(
        "serving.api.security.WatchedFile", lambda path, read: WatchedFile(path, read, check_every_s=0.0)
    )
    return Keys(path)


def test_basic_opens_only_where_it_is_asked_for(key_file: Path) -> None:
    key = new_key(key_file, "shop", [Scope.READ])
    keys = Keys(key_file)
    sent = {"authorization": "Basic " + b64encode(f"anything:{key}".encode()).decode()}
    assert keys.caller(sent, basic=True).name == "shop"
    for headers, basic in ((sent, False), ({"authorization": "Basic %%%"}, True), ({}, True)):
        with pytest.raises(Problem) as refused:
            keys.caller(headers, basic)
        assert refused.value.headers["www-authenticate"].startswith("Basic" if basic else "Bearer")


def test_names_in_a_file_are_unique(key_file: Path) -> None:
    new_key(key_file, "shop", [Scope.READ])
    key_file.write_text(json.dumps(json.loads(key_file.read_text()) * 2))
    with pytest.raises(InvalidConfig, match="same name"):
        Keys(key_file)


@pytest.mark.parametrize(
    "content", ["", "{}", '[{"name": "a"}]', '[{"name":"a","sha256":"","scopes":["root"]}]']
)
def test_a_broken_file_is_an_error_at_the_start(key_file: Path, content: str) -> None:
    key_file.write_text(content)
    with pytest.raises(InvalidConfig, match=str(key_file)):
        Keys(key_file)
    with pytest.raises(InvalidConfig, match="--new-key"):
        Keys(key_file.with_name("none.json"))
