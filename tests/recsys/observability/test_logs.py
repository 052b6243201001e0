"""A log line is JSON with a plain traceback, and whatever an error quotes, no secret is in it."""

import json
import logging
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from recsys.contracts.errors import InvalidConfig
from recsys.observability import logs
from recsys.observability.logs import configure_logs, hide, hide_password_of, redact
from recsys.settings import Settings
from recsys.store.redis_client import connect
from serving.settings import ServingSettings

BODY = "the body of a request"
KEY = "rk_shop_" + "x9-_" * 10 + "abc"
words = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="\"'"), min_size=6)


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Other tests log as they always do."""
    monkeypatch.setattr(logs, "_known", set())
    root = logging.getLogger()
    before = structlog.get_config()
    handlers, level, kafka = root.handlers[:], root.level, logging.getLogger("kafka").level
    yield
    structlog.configure(**before)
    root.handlers, root.level = handlers, level
    logging.getLogger("kafka").setLevel(kafka)


@given(words)
def test_the_password_of_a_url_is_hidden_as_written_and_as_sent(password: str) -> None:
    url = f"redis://app:{quote(password, safe='')}@cache:6379/0"
    assert redact(f"cannot reach {url}") == "cannot reach redis://***@cache:6379/0"
    hide_password_of(url)
    assert (
        redact(f"unknown command 'AUTH', with args '{password}'") == "unknown command 'AUTH', with args '***'"
    )


def test_a_key_is_hidden_wherever_it_stands_and_other_words_are_not() -> None:
    assert redact(f"GET /v1/users/{KEY}?x=1") == "GET /v1/users/***?x=1"
    hide("short")  # a password of five letters would make holes into every line
    plain = "a short line with rk_shop, me@example.com and http://127.0.0.1:8000/metrics"
    assert redact(plain) == plain


def test_lines_of_ours_and_of_libraries_are_json_without_local_variables(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs("info")
    hide("hunter2hunter2")

    def fails(body: str) -> None:
        raise ValueError(f"hunter2hunter2 and {KEY}")

    for log in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        try:
            fails(BODY.upper())
        except ValueError:
            log.exception("request failed")
    logging.getLogger("theirs").warning("redis://u:%s@host/0", "hunter2hunter2")
    text = capsys.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == ["request failed", "request failed", "redis://***@host/0"]
    assert {line["level"] for line in lines} == {"error", "warning"}
    for line in lines[:2]:
        assert line["exception"].endswith("ValueError: *** and ***")
    for secret in ("hunter2", KEY, BODY.upper()):
        assert secret not in text


def test_secrets_of_the_settings_are_in_no_repr_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ServingSettings(redis_url="redis://:hunter2@h/0", milvus_token="root:hunter2")
    assert "hunter2" not in f"{given!r} {given} {given.model_dump_json()}"
    monkeypatch.setenv("RECSYS_PARTITIONS", "hunter2")
    with pytest.raises(ValueError, match="partitions") as refused:
        Settings()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["redis://:hunt/er2@h:1/0", "hunter2://h", "redis://:hunter2@h:port/0"])
def test_a_wrong_redis_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(InvalidConfig, match="percent-encode") as refused:
        connect(url)
    assert "hunt" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_an_unknown_level_names_the_known_ones() -> None:
    with pytest.raises(InvalidConfig, match="debug, info"):
        configure_logs("loud")
