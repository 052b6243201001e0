"""What every evaluation of the served ranker begins with: its configuration, and the examples by the Spark job."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import Field

from recsys.datasets.lake_attribution import lake_attribution
from recsys.lake.forget import forgotten_users
from recsys.spark_session import spark_session
from training.choices import RANK_EPOCHS
from training.config import Config
from training.evaluation.lake import forget_outdated
from training.features.feature_job import FeatureJob
from training.features.job import build

Report = Callable[[str], None]


class ServedRanker(Config):
    """What to train, and on what."""

    data: Path = Field(description="A lake, or the folder of a data set.")
    work: Path = Field(
        description="Lake, examples, weights and scores; an interrupted run continues from it."
    )
    seed: int = Field(0, ge=0, description="The first seed.")
    seeds: int = Field(3, ge=1, description="Number of runs, one per seed.")
    epochs: int = Field(RANK_EPOCHS, ge=1, description="Of the ranker, at most, as in `recsys train rank`.")
    trees: int = Field(600, ge=1, description="Of each LightGBM, at most.")
    master: str = Field("local[*]", description="Spark master of the feature job.")
    memory: str = Field("2g", description="Memory of the Spark driver.")

    def quick(self) -> Self:
        """One seed, one epoch, few trees."""
        return self.replace(seeds=1, epochs=1, trees=40)


def build_examples(config: ServedRanker, lake: Path, report: Report) -> Path:
    """`recsys features build` in the work folder; days that exist are not built again. Returns the examples' folder."""
    forget_outdated(config.work, lake)
    features = config.work / "features"
    report(f"next: build examples in {features}")
    spark = spark_session(config.master, config.memory)
    try:
        job = FeatureJob(
            lake=lake.absolute().as_posix(),
            output=features.absolute().as_posix(),
            attribution=lake_attribution(lake),
            forgotten=forgotten_users(lake),
        )
        build(spark, job, report)
    finally:
        spark.stop()
    return features / "examples"
