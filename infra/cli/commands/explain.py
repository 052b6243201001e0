"""`recsys explain`: the funnel of one request as tables."""

from typing import Annotated, Any

import msgspec
import typer

from infra.terminal import JsonFlag, print_json, print_table
from recsys.client import Client
from recsys.client.models import Recommendations

app = typer.Typer()
_TOP = 6  # features listed per item


@app.command()
def explain(
    user: Annotated[str, typer.Argument(help="User id; an unknown id is a new user.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Number of items.")] = 10,
    filter: Annotated[
        str, typer.Option(help="Which items may be shown, such as 'price <= 20' (docs/serving.md).")
    ] = "",
    region: Annotated[str, typer.Option(help="Where the request comes from.")] = "",
    language: Annotated[str, typer.Option(help="Language of the titles, such as de or en-GB.")] = "",
    api: Annotated[str, typer.Option(help="URL of the API.")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(envvar="API_KEY", help="API key, if the API requires one.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Request recommendations and explain them: stages, channels, scores, reasons, moves, removals.

    The API logs the list as shown, like any other.

    Example: recsys explain 196 -k 5 --filter '"Comedy" in categories'
    """
    with Client(api, key, timeout_s=30.0) as client:
        answer = client.recommend(user, k, explain=True, filter=filter, region=region, language=language)
    if as_json:
        print_json(msgspec.to_builtins(answer))
    else:
        _print(answer)


def _print(answer: Recommendations) -> None:
    funnel: dict[str, Any] = answer.funnel or {}
    degraded = f", degraded: {', '.join(answer.degraded)}" if answer.degraded else ""
    print_table(
        f"{answer.user_id}: {len(answer.items)} items in {answer.ms:.1f} ms by bundle {answer.bundle}{degraded}",
        ("stage", "began ms", "ms", "in", "out", "status"),
        [
            (
                s["stage"],
                f"{s['began_ms']:.2f}",
                f"{s['ms']:.2f}",
                s["in"],
                s["out"],
                s["error"] or s["status"],
            )
            for s in funnel["stages"]
        ],
    )
    print_table(
        "shown",
        ("", "item", "found by (rank)", "score", "heads", "from rank"),
        [
            (
                place,
                line["title"] or line["item_id"],
                ", ".join(f"{name} {rank + 1}" for name, rank in line["channels"].items()),
                f"{line['score']:.4f}",
                " ".join(f"{head} {value:.3f}" for head, value in line["scores"].items()),
                _moved(line),
            )
            for place, line in enumerate(funnel["shown"], start=1)
        ],
    )
    print_table(
        "reasons (contribution to the score of what differs between candidates; age of its newest event)",
        ("item", "strongest features"),
        [
            (line["title"] or line["item_id"], _inputs(line.get("reasons", []), line, funnel["features"]))
            for line in funnel["shown"]
        ],
    )
    print_table(
        "the same for all candidates (contribution to the first item's score)",
        ("strongest features",),
        [(_inputs(_shared(funnel, line), line, funnel["features"]),) for line in funnel["shown"][:1]],
    )
    removed = [
        (
            stage,
            reason,
            found["count"],
            ", ".join(item["title"] or item["item_id"] for item in found["items"][:5]),
        )
        for stage, reasons in funnel["removed"].items()
        for reason, found in reasons.items()
        if found["count"]
    ]
    print_table("removed", ("filter", "reason", "items", "first items"), removed)


def _moved(line: dict[str, Any]) -> str:
    rank = "" if line["rank"] is None else str(line["rank"] + 1)
    return f"{rank} ({line['moved_by']})" if line["moved_by"] else rank


def _shared(funnel: dict[str, Any], line: dict[str, Any]) -> list[str]:
    """Names of the shared features that move the item's score, strongest first."""
    shares: dict[str, float] = line.get("contributions", {})
    moving = (name for name in funnel["shared"] if shares.get(name))
    return sorted(moving, key=lambda name: -abs(shares[name]))


def _inputs(names: list[str], line: dict[str, Any], features: dict[str, Any]) -> str:
    """The first of `names`: contribution, name, value, age."""
    ages: dict[str, int | None] = line.get("ages_ms") or {}
    return "\n".join(
        f"{line['contributions'][name]:+.4f} {name}{_values(name, line, features)}{_age(ages.get(name))}"
        for name in names[:_TOP]
    )


def _values(name: str, line: dict[str, Any], features: dict[str, Any]) -> str:
    columns = features.get(name, {}).get("columns", [])
    return (
        " = " + " ".join(f"{line['features'][c]:.4g}" for c in columns)
        if columns and line["features"]
        else ""
    )


def _age(ms: int | None) -> str:
    if ms is None:
        return ""
    for unit, length in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if ms >= length:
            return f", {ms / length:.0f} {unit} old"
    return f", {ms} ms old"
