"""`recsys index`: which index suits the vectors."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli.options import refuse
from infra.terminal import JsonFlag, console, print_json, print_table
from recsys.contracts.errors import InvalidBundle, InvalidConfig, InvalidData
from recsys.recall.index_kind import Kind
from recsys.recall.item_vectors import ItemVectors

if TYPE_CHECKING:
    from infra.evaluation.benchmarks.vectors import Vectors
    from recsys.recall.tune import Measured

app = typer.Typer(no_args_is_help=True, help="Measure and choose nearest-neighbour indexes.")


@app.callback()
def _group() -> None:
    """Measure and choose nearest-neighbour indexes."""


@app.command()
def tune(
    ctx: typer.Context,
    recall: Annotated[float, typer.Option(min=0.5, max=1, help="Minimum recall@500.")] = 0.99,
    vectors: Annotated[
        str, typer.Option(help="A bundle's item_vectors.safetensors, or synthetic: learnt, random.")
    ] = "learnt",
    items: Annotated[int, typer.Option(min=1000, help="Number of synthetic vectors.")] = 100_000,
    kinds: Annotated[
        list[Kind] | None, typer.Option("--kind", help="Restrict to this kind; repeatable.")
    ] = None,
    max_bytes: Annotated[float, typer.Option(help="Maximum memory per vector.")] = 80.0,
    queries: Annotated[int, typer.Option(min=10, help="Number of queries.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Seed of synthetic vectors and queries.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="PNG file for the recall-speed curve.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure every kind of index against exact search and choose the fastest within the limits.

    Example: recsys index tune --recall 0.99 --items 100000 --plot curve.png
    """
    from recsys.recall.tune import candidates, measure, pick

    refuse(
        ctx,
        vectors not in ("learnt", "random"),
        ["items"],
        "it is of synthetic vectors; --vectors names a file",
    )
    data = _vectors(vectors, items, queries, seed)
    configs = [c for c in candidates(len(data.items)) if kinds is None or c.kind in kinds]
    found: list[Measured] = []
    for measured in measure(data.items, data.queries, configs):
        found.append(measured)
        console.print(
            f"{measured.label} effort {measured.config.effort}: {measured.recall:.4f}", highlight=False
        )
    chosen = pick(found, recall, max_bytes)
    if plot is not None:
        from infra.evaluation.benchmarks.plots import plot_indexes

        title = f"{len(data.items):,} × {data.items.shape[1]}, {Path(vectors).name} vectors"
        plot_indexes({Path(vectors).stem: found}, plot, title)
    if as_json:
        print_json({"measured": [_row(m) for m in found], "chosen": _row(chosen) if chosen else None})
    else:
        rows = [[*_row(m).values(), "←" if m is chosen else ""] for m in found]
        print_table(f"{len(data.items):,} vectors, recall@500", (*_row(found[0]), "chosen"), rows)
    if chosen is None:
        raise InvalidConfig(
            f"no index reaches recall {recall} within {max_bytes:g} bytes per vector; allow more"
        )


def _vectors(name: str, items: int, queries: int, seed: int) -> "Vectors":
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from infra.evaluation.benchmarks.vectors import Vectors, learnt_like, random_vectors, users_of

    if name in ("learnt", "random"):
        return (learnt_like if name == "learnt" else random_vectors)(items, 64, queries, seed)
    try:
        table = ItemVectors.of(load_file(name)).vectors
    except (OSError, SafetensorError, InvalidBundle) as error:
        raise InvalidData(
            f"{name}: no item vectors ({error}); give a bundle's item_vectors.safetensors"
        ) from error
    return Vectors(table, users_of(table, queries, seed))


def _row(m: "Measured") -> dict[str, object]:
    return {
        "index": m.label,
        "lists": m.config.lists if m.config.kind.startswith("ivf") else "",
        "effort": m.config.effort or "",
        "recall": round(m.recall, 4),
        "ms": round(m.ms, 3),
        "speedup": round(m.speedup, 2),
        "bytes_per_vector": round(m.bytes_per_vector, 1),
        "build_s": round(m.build_s, 1),
    }
