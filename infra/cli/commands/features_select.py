"""`recsys features select`."""

from pathlib import Path
from typing import Annotated

import typer

from infra.terminal import JsonFlag, QuickFlag, console, finish
from recsys.settings import Settings


def select(
    data: Annotated[
        Path | None, typer.Option(help="KuaiRand-Pure folder; default: the lake's examples.")
    ] = None,
    crosses: Annotated[int, typer.Option(min=0, help="Largest number of crosses to propose.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="The same seed and data give the same choice.")] = 0,
    quick: QuickFlag = False,
    as_json: JsonFlag = False,
) -> None:
    """Rank features by gain and permutation, drop useless ones, propose crosses, show the effect on later rows.

    Writes <home>/reports/features/selection.json.

    Example: recsys features select --crosses 5 --json
    """
    from recsys.features.definitions import FEATURES
    from training.compression.ladder_input import by_time
    from training.evaluation.feature_selection import Selection, Split, main
    from training.ranker.dataset import read_examples

    settings = Settings()
    config = Selection(out=settings.home / "reports" / "features", proposals=crosses, seed=seed)
    if quick:
        config = config.replace(trees=30, repeats=1, crossed=4)
    if data is not None:
        from training.evaluation.kuairand import log as kuairand_rank

        kuairand = kuairand_rank.load(data)
        names = kuairand.names()
        rows = kuairand_rank.examples(kuairand, names)
        parts = [rows.take(mask) for mask in kuairand_rank.split(kuairand).values()]
    else:
        names = FEATURES.names
        rows = read_examples(settings.features / "examples", [], FEATURES.dimension, length=1)
        parts = list(by_time(rows))
    train, validation, test = (Split.of(part) for part in parts)
    finish(main(config, names, train, validation, test, report=console.print), as_json)
