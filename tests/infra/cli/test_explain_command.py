"""`recsys explain` prints the funnel of a real answer."""

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from infra.cli.commands import explain
from recsys.client import Client
from tests.serving.conftest import Api, click, make_api

__all__ = ["make_api"]


@pytest.fixture
def run(make_api: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    api: Api = make_api()
    api.apply([click("item-003"), click("item-004")])

    def handle(request: httpx.Request) -> httpx.Response:
        answer = api.client.request(
            request.method, str(request.url), content=request.content, headers=dict(request.headers)
        )
        return httpx.Response(answer.status_code, content=answer.content)

    def client(url: str, key: str, timeout_s: float) -> Client:
        return Client(url, key, timeout_s, transport=httpx.MockTransport(handle))

    monkeypatch.setattr(explain, "Client", client)
    return lambda *arguments: CliRunner().invoke(explain.app, list(arguments), env={"COLUMNS": "200"})


def test_the_funnel_as_tables_and_as_json(run: Any) -> None:
    shown = run("u1", "-k", "5")
    assert shown.exit_code == 0, shown.output
    for part in ("two_tower", "rank", "Item ", "strongest features", "old"):
        assert part in shown.output
    funnel = json.loads(run("u1", "--json").stdout)["funnel"]
    assert {"stages", "shown", "ranked", "removed", "features"} <= funnel.keys()


def test_a_filter_limits_the_list_and_says_what_it_left_out(run: Any) -> None:
    shown = run("u1", "--filter", "item_id in ['item-005', 'item-006']")
    assert shown.exit_code == 0, shown.output
    assert "2 items" in shown.output
    assert "eligibility" in shown.output
    assert run("u1", "--filter", "colour == 1").exit_code != 0
