"""`recsys bench simulation` at a tiny size."""

from infra.evaluation.benchmarks.simulation import SimulationBench, run


def test_every_figure_is_there() -> None:
    result = run(SimulationBench(seed=1, users=500, items=300, lists=50))
    assert result.met
    assert result.figures["users"] == 500
    assert all(
        result.figures[name] > 0 for name in ("create_s", "arrays_mib", "visits_of_a_day", "lists_per_s")
    )
