"""A search by Optuna on disk, which an interrupted run continues (`recsys tune`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState


def open_study(
    path: Path,
    name: str,
    seed: int,
    directions: Sequence[Literal["minimize", "maximize"]],
    first: Mapping[str, Any],
    pruner: BasePruner | None = None,
) -> optuna.Study:
    """Create the study or continue it: a trial that was interrupted comes first.

    Args:
        path: the journal. name: of the study in it; what is searched with other limits or data is another study.
        seed: of the sampler. A continued one draws other values than those that it has drawn.
        first: the parameters of the first trial, which has the user attribute `first`.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=name,
        load_if_exists=True,
        directions=directions,
        pruner=pruner or NopPruner(),
    )
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    if not study.trials:
        study.enqueue_trial(dict(first), user_attrs={"first": True})
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
    return study
