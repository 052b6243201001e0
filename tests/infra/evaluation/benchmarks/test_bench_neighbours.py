"""The benchmark of the item-to-item table runs, small."""

from infra.evaluation.benchmarks.neighbours import NeighboursBench, goals, run


def test_the_bench_gives_every_figure_of_its_goals() -> None:
    small = NeighboursBench(items=3_000, users=300, dimension=16, neighbours=10)
    result = run(small)
    assert result.met, result.figures
    assert goals(small).keys() < goals(NeighboursBench()).keys() <= result.figures.keys()
