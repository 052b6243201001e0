"""`recsys evaluate rank-benchmark`: architectures and baselines on KuaiRand-only features, which are not served.

Scores are stored in a work folder: an interrupted evaluation continues with the next model.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import torch

from recsys.contracts.errors import InvalidConfig
from recsys.metrics import auc, gauc
from recsys.result import Goal, Result
from training.evaluation.kuairand.benchmark import Benchmark, RankEvaluation
from training.evaluation.kuairand.judge import Judge
from training.evaluation.ranking.scoreboard import Scoreboard

GOALS = {
    "teacher_click_auc": Goal(">=", 0.765),
    "teacher_click_gauc": Goal(">=", 0.645),
    "teacher_long_view_auc": Goal(">=", 0.767),
    "teacher_long_view_gauc": Goal(">=", 0.662),
    "teacher_like_auc": Goal(">=", 0.890),
    "teacher_dwell_xauc": Goal(">=", 0.695),
    "teacher_dwell_mae_s": Goal("<=", 18.3),
    "int8_click_auc": Goal(">=", 0.763),
    "int8_long_view_auc": Goal(">=", 0.765),
    "int8_like_auc": Goal(">=", 0.888),
    "int8_dwell_xauc_below_teacher": Goal("<=", 0.002),
}


def main(config: RankEvaluation, report: Callable[[str], None] = lambda line: None) -> Result:
    """Train and judge every model.

    Args:
        report: receives one line per finished model.

    Raises:
        InvalidConfig: several processes without a work folder for their scores, or one of them was killed.
    """
    if config.processes > 1 and config.work is None:
        raise InvalidConfig("processes: more than one needs `work`, where they store their scores")
    torch.set_num_threads(1)
    if config.is_quick:
        config = config.replace(seeds=1, contributions=False, loop=config.loop.replace(epochs=1))
    benchmark = Benchmark(config)
    report(benchmark.describe())
    loops = [config.loop.replace(seed=seed) for seed in range(config.seed, config.seed + config.seeds)]
    if config.processes > 1:
        train_in_parallel(benchmark.jobs(loops), config.processes, report)
    labels, users = benchmark.labels["test"], benchmark.parts["test"].users
    happened = labels["click"].astype(np.int64)
    judge = Judge(labels, users)
    board = Scoreboard(judge, report)
    for loop in loops:
        for name, logits in benchmark.models(loop):
            board.add(loop.seed, name, logits)
    figures = board.means()
    figures["int8_dwell_xauc_below_teacher"] = figures["teacher_dwell_xauc"] - figures["int8_dwell_xauc"]
    figures |= judge.compare(board, "teacher", "lightgbm_baseline")
    figures |= judge.compare(board, "int8", "teacher")
    if config.contributions:
        for name, logits in benchmark.contributions():
            figures[f"group_{name}_click_auc"] = auc(happened, logits["click"])
            figures[f"group_{name}_click_gauc"] = gauc(happened, logits["click"], users)
    return Result("evaluate rank-benchmark", config.seed, figures, GOALS)


_jobs: Sequence[Callable[[], object]] = ()  # of the stage that forked processes work on


def train_in_parallel(
    stages: Sequence[Sequence[Callable[[], object]]], processes: int, report: Callable[[str], None]
) -> None:
    """Run each stage's jobs in forked processes, which share the data and leave their results on disk.

    The calling process must not have trained in threads before: torch's autograd cannot be forked then, and says so.

    Raises:
        InvalidConfig: a process was killed, as the kernel does when memory runs out.
    """
    global _jobs
    for number, stage in enumerate(stages, start=1):
        _jobs = stage
        # not multiprocessing.Pool, which waits forever for a process that was killed
        with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
            try:
                for done, _ in enumerate(pool.map(_run_job, range(len(stage))), start=1):
                    report(f"stage {number} of {len(stages)}: {done} of {len(stage)} trained")
            except BrokenProcessPool as error:
                raise InvalidConfig(
                    f"one of {processes} training processes was killed, probably because memory ran out: use fewer"
                    " with --processes; what has been trained is stored"
                ) from error


def _run_job(place: int) -> None:
    _jobs[place]()
