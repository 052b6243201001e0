"""Spark's Kafka connector, which does not come with pyspark."""

from importlib.metadata import version
from pathlib import Path

from recsys.contracts.errors import InvalidConfig

_NAME = "spark-sql-kafka-0-10_2.13"
CONNECTOR_NAMED = (
    f"where Maven Central cannot be reached, set RECSYS_SPARK_JARS to a folder with {_NAME} and what it depends on, or"
    " start the engine by spark-submit with --packages or --jars (docs/streaming.md, the Spark engine)"
)


def connector(jars: Path | None = None) -> tuple[str, str]:
    """The setting of a session that has the connector: the jars of a folder; None: from Maven Central, kept by Ivy.
    Raises `InvalidConfig`: the folder has none of this version."""
    spark = version("pyspark")
    if jars is None:
        return "spark.jars.packages", f"org.apache.spark:{_NAME}:{spark}"
    if not any(jars.glob(f"*{_NAME}-{spark}.jar")):  # Ivy prefixes it with the organisation
        raise InvalidConfig(f"RECSYS_SPARK_JARS: {jars} has no {_NAME}-{spark}.jar")
    return "spark.jars", ",".join(str(jar) for jar in sorted(jars.absolute().glob("*.jar")))
