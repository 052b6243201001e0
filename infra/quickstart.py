"""`recsys quickstart`: from a user's tables to lists within about a minute, and to good models a few minutes later."""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from infra.loop import EXTRAS, Outcome, busy_user, started
from recsys.contracts.errors import InvalidData
from recsys.datasets.guessing import Guess, guess_mapping
from recsys.datasets.opening import MAPPING_FILE, open_dataset
from recsys.extras import require
from recsys.files import atomic_write
from recsys.settings import Settings
from training.choices import LEAST_FIRST_MINUTES

HOME = "quickstart"


def mapped(
    paths: Sequence[Path], home: Path, show: Callable[[Guess, Path], None]
) -> tuple[Path, Path | None]:
    """The data to import, and its mapping: None where the data set is known, or has a `mapping.yaml`; else guessed,
    shown, and written to `home`/mapping.yaml.

    Raises:
        InvalidData: there is no table, or it cannot be told what its columns mean.
    """
    [first, *more] = paths
    if not more and (
        first.is_dir() or (first.parent / MAPPING_FILE).exists()
    ):  # a file is not its folder's data set
        with contextlib.suppress(InvalidData):
            open_dataset(first)
            return first, None
    guess = guess_mapping(paths)
    file = home / "mapping.yaml"
    atomic_write(file, guess.to_yaml())
    show(guess, file)
    return guess.folder, file


def run_quickstart(
    paths: Sequence[Path],
    minutes: float,
    once: bool,
    port: int,
    guessed: Callable[[Guess, Path], None],
    show: Callable[[Outcome, str], None],
) -> None:
    """Run all steps in `<home>/quickstart`, with a first list after about `minutes`. `guessed` gets a guessed mapping
    and its file, `show` the measurements, with a list in `before`, and the API's address."""
    require(*EXTRAS)
    data, mapping = mapped(paths, Settings().home / HOME, guessed)
    with started(HOME) as loop:
        outcome, began = loop.outcome, time.monotonic()
        loop.import_data(data, mapping)
        left = minutes - (time.monotonic() - began) / 60
        loop.first_bundle(max(left, LEAST_FIRST_MINUTES))
        api = loop.serve(0 if once else port)
        outcome.user = busy_user(loop.settings)
        outcome.before = api.recommend(outcome.user)
        outcome.seconds["to the first list"] = round(time.monotonic() - began, 2)
        show(outcome, api.url)
        if not once:
            loop.improve(api)
