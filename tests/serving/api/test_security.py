"""API keys: what opens, what does not, and that the file gives nothing away."""

from pathlib import Path

import pytest

from recsys.contracts.errors import InvalidConfig
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


@pytest.mark.parametrize(
    "content", ["", "{}", '[{"name": "a"}]', '[{"name":"a","sha256":"","scopes":["root"]}]']
)
def test_a_broken_file_is_an_error_at_the_start(key_file: Path, content: str) -> None:
    key_file.write_text(content)
    with pytest.raises(InvalidConfig, match=str(key_file)):
        Keys(key_file)
    with pytest.raises(InvalidConfig, match="--new-key"):
        Keys(key_file.with_name("none.json"))
