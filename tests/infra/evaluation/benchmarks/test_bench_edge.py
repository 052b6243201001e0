"""The part of `recsys bench edge` without a browser; tests/serving/browser has the other."""

from dataclasses import replace

from infra.evaluation.benchmarks.edge import goals
from infra.evaluation.benchmarks.edge_updates import update_figures
from training.compression.ladder import STUDENT
from training.compression.synthetic import LadderData


def test_a_nights_delta_is_smaller_than_the_model() -> None:
    small = LadderData(
        n_items=2_000, n_creators=100, n_users=200, rows=2_000, n_features=24, history_length=8
    )
    figures = update_figures(small, nights=3, student=replace(STUDENT, item_buckets=500))
    assert 0 < figures["update_1_nights_bytes"] < figures["update_3_nights_bytes"] < figures["model_bytes"]
    assert figures["update_median_bytes"] < figures["model_deflated_bytes"]
    for name in figures.keys() & goals().keys() - {"update_over_server_ranker"}:  # which has few items
        assert goals()[name].met(figures[name])
