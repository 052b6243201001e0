"""`recsys quickstart`: from a user's tables to lists within about a minute, and to good models a few minutes later."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.loop import Outcome, busy_user, started
from recsys.contracts.errors import InvalidData
from recsys.datasets.guessing import Guess, guess_mapping
from recsys.datasets.opening import open_dataset
from recsys.settings import Settings

HOME = "quickstart"


def mapped(
    paths: Sequence[Path], home: Path, show: Callable[[Guess, Path], None]
) -> tuple[Path, Path | None]:
    """The data to import, and its mapping: None where the data set is known, or has a `mapping.yaml`; else guessed,
    shown, and written to `home`/mapping.yaml.

    Raises:
        InvalidData: there is no table, or it cannot be told what its columns mean.
    """
    if len(paths) == 1:
        with contextlib.suppress(InvalidData):
            open_dataset(paths[0])
            return paths[0], None
    guess = guess_mapping(paths)
    file = home / "mapping.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(guess.to_yaml(), encoding="utf-8")
    show(guess, file)
    return guess.folder, file


def run_quickstart(
    paths: Sequence[Path],
    once: bool,
    port: int,
    guessed: Callable[[Guess, Path], None],
    show: Callable[[Outcome, str], None],
) -> None:
    """Run all steps in `<home>/quickstart`. `guessed` gets a guessed mapping and its file, `show` the measurements,
    with a list in `before`, and the API's address."""
    data, mapping = mapped(paths, Settings().home / HOME, guessed)
    with started(HOME) as loop:
        outcome, began = loop.outcome, time.monotonic()
        loop.import_data(data, mapping)
        loop.first_bundle()
        api = loop.serve(0 if once else port)
        outcome.user = busy_user(loop.settings)
        outcome.before = api.recommend(outcome.user)
        outcome.seconds["to the first list"] = round(time.monotonic() - began, 2)
        show(outcome, api.url)
        if not once:
            with contextlib.suppress(KeyboardInterrupt):
                loop.in_full()
                loop.until_interrupted(api)
