"""Figures of the temporal protocol: equal to the plain metrics, and under weights to those of repeated rows."""

import numpy as np
import pytest
from numpy.typing import NDArray

from recsys.metrics import auc, calibration_error, gauc, list_ndcgs
from training.evaluation.ranking.measures import BINS, Judge
from training.evaluation.ranking.scoreboard import Scoreboard, sigmoid

RNG = np.random.default_rng(3)
USERS = np.repeat(np.arange(60), 40)
REQUESTS = np.arange(len(USERS)) // 8
SCORES = RNG.normal(-1, 1, len(USERS))
LABELS = (RNG.random(len(USERS)) < sigmoid(SCORES)).astype(np.float64)
NOISE = RNG.normal(-1, 1, len(USERS))


def figures(
    labels: NDArray[np.float64],
    scores: NDArray[np.float64],
    users: NDArray[np.int64] = USERS,
    requests: NDArray[np.int64] = REQUESTS,
) -> dict[str, float]:
    return Judge({"click": labels}, users, requests)({"click": scores})


def test_each_figure_is_the_plain_metric() -> None:
    found, happened, p = figures(LABELS, SCORES), LABELS.astype(np.int64), sigmoid(SCORES)
    assert found == pytest.approx(
        {
            "click_auc": auc(happened, SCORES),
            "click_gauc": gauc(happened, SCORES, USERS),
            "click_ndcg10": float(list_ndcgs(happened, SCORES, REQUESTS, 10)[1].mean()),
            "click_log_loss": float(-np.log(np.where(LABELS > 0, p, 1 - p)).mean()),
            "click_calibration_error": calibration_error(happened, p, BINS),
            "click_calibration_ratio": float(p.mean() / LABELS.mean()),
        }
    )


def test_a_weight_is_that_many_users() -> None:
    """GAUC, NDCG, loss and ratio of users drawn twice, once or never are those of a log that has them so often."""
    drawn = np.arange(60) % 3
    repeated = np.concatenate([np.flatnonzero(drawn[USERS] > n) for n in range(2)])
    copy = np.concatenate(
        [np.full((drawn[USERS] > n).sum(), n) for n in range(2)]
    )  # each is a user of its own
    other = figures(
        LABELS[repeated], SCORES[repeated], USERS[repeated] + 60 * copy, REQUESTS[repeated] + 10_000 * copy
    )
    measures = Judge({"click": LABELS}, USERS, REQUESTS).measures({"click": SCORES})
    for name in set(other) - {"click_calibration_error"}:  # whose bins do not move
        assert measures[name](drawn.astype(np.float64)) == pytest.approx(other[name]), name


def test_a_constant_is_judged_in_one_bin() -> None:
    found = figures(LABELS, np.full(len(LABELS), np.log(0.5 / 0.5)))
    assert found["click_calibration_error"] == pytest.approx(abs(0.5 - LABELS.mean()))
    assert found["click_auc"] == found["click_gauc"] == 0.5


def test_what_the_rows_do_not_define_is_left_out() -> None:
    alone = figures(LABELS, SCORES, users=np.arange(len(USERS)), requests=np.arange(len(USERS)))
    assert set(alone) == {
        f"click_{name}" for name in ("auc", "log_loss", "calibration_error", "calibration_ratio")
    }
    assert np.isfinite(list(alone.values())).all()


def test_leads_are_positive_where_the_model_is_better() -> None:
    judge = Judge({"click": LABELS}, USERS, REQUESTS)
    board = Scoreboard(judge, lambda line: None)
    for name, scores in (("ours", SCORES), ("twin", SCORES), ("noise", NOISE)):
        board.add(0, name, {"click": scores})
    found, means = judge.intervals(board, "ours"), board.means()
    for figure in ("auc", "gauc", "ndcg10", "log_loss"):
        low, lead, high = (found[f"ours_over_noise_click_{figure}{end}"] for end in ("_low", "", "_high"))
        assert 0 < low < lead < high, figure
        assert found[f"ours_over_twin_click_{figure}_high"] == 0
        assert (
            found[f"ours_click_{figure}_low"]
            < means[f"ours_click_{figure}"]
            < found[f"ours_click_{figure}_high"]
        )
    assert found["ours_over_noise_click_log_loss"] == pytest.approx(
        means["noise_click_log_loss"] - means["ours_click_log_loss"]
    )
    assert found["ours_click_calibration_ratio_low"] < 1 < found["ours_click_calibration_ratio_high"]
    assert "ours_over_noise_click_calibration_ratio" not in found
    assert "ours_click_calibration_error_low" not in found


def test_intervals_of_several_seeds_are_of_their_mean() -> None:
    judge = Judge({"click": LABELS}, USERS, REQUESTS)
    board = Scoreboard(judge, lambda line: None)
    board.add(0, "ours", {"click": SCORES})
    board.add(1, "ours", {"click": NOISE})
    board.add(0, "noise", {"click": NOISE})
    found, means = judge.intervals(board, "ours"), board.means()
    half = (auc(LABELS.astype(int), SCORES) - auc(LABELS.astype(int), NOISE)) / 2
    assert found["ours_over_noise_click_auc"] == pytest.approx(half)
    assert found["ours_click_auc_low"] < means["ours_click_auc"] < found["ours_click_auc_high"]
