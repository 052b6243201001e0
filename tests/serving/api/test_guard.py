"""What can be put behind a key, and that no answer repeats the `Host` header."""

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from serving.api.security import new_key
from serving.settings import Scope, ServingSettings
from tests.serving.conftest import Api

PARTS = {"metrics": ["/metrics"], "readyz": ["/readyz"], "console": ["/", "/openapi.json", "/static/app.js"]}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_behind_a_key_when_it_is_named(
    make_api: Callable[..., Api], tmp_path: Path, part: str
) -> None:
    path = tmp_path / "keys.json"
    reader, writer = new_key(path, "reader", [Scope.READ]), new_key(path, "writer", [Scope.WRITE])
    client = make_api(api_keys=path, guarded=(part,)).client
    for name, urls in PARTS.items():
        for url in urls:
            assert client.get(url).status_code == (401 if name == part else 200), url
            assert client.get(url, headers={"authorization": f"Bearer {reader}"}).status_code == 200
            assert client.get(url, headers={"x-api-key": writer}).status_code == (
                403 if name == part else 200
            )
    browser = {"authorization": "Basic " + b64encode(f"me:{reader}".encode()).decode()}
    for url in PARTS[part]:
        assert client.get(url, headers=browser).status_code == (200 if part == "console" else 401)
    asked = client.get(PARTS[part][0]).headers["www-authenticate"]
    assert asked.startswith("Basic" if part == "console" else "Bearer")
    assert client.get("/healthz").status_code == 200, "a probe needs no key"
    assert client.get("/v1/bundles", headers=browser).status_code == 401, "another site could send it"


def test_a_guard_without_keys_is_refused() -> None:
    with pytest.raises(ValidationError, match="set RECSYS_API_KEYS"):
        ServingSettings(guarded=("metrics",))


def test_no_answer_repeats_the_host(api: Api) -> None:
    """Every path of the document, with and without a slash at its end, and some that do not exist."""
    known = list(api.client.get("/openapi.json").json()["paths"])
    for path in [*known, "/", "/static", "/static/app.js", "/nothing", "//other.example", "/docs"]:
        for url in (path, path.rstrip("/") + "/"):
            for method in ("GET", "POST"):
                answer = api.client.request(
                    method, url, headers={"host": "evil.example"}, follow_redirects=False
                )
                assert "location" not in answer.headers, url
                assert "evil.example" not in str(answer.headers), url
                assert "evil.example" not in answer.text, url


def test_only_named_hosts_are_answered_when_there_are_some(make_api: Callable[..., Api]) -> None:
    client = make_api(allowed_hosts=("shop.example",)).client
    assert client.get("/healthz", headers={"host": "shop.example:8000"}).status_code == 200
    for host in ("evil.example", "shop.example.evil.example", ""):
        refused = client.get("/healthz", headers={"host": host}, follow_redirects=False)
        assert refused.status_code == 400
        assert "location" not in refused.headers
