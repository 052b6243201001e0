"""The jars of Apache Kafka: named by a setting, of an installed distribution, or from Maven Central, once.

Java programs are resolved by Ivy, as `spark.jars.packages` is: its jar comes with pyspark.
"""

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import structlog

from recsys.contracts.errors import InvalidConfig, Unavailable
from recsys.files import staged_folder

VERSION = "4.3.1"
_RESOLVE_TIMEOUT_S = 300
_DEPENDENCIES = f"""<ivy-module version="2.0">
  <info organisation="recsys" module="kafka"/>
  <dependencies>
    <dependency org="org.apache.kafka" name="kafka_2.13" rev="{VERSION}" conf="default"/>
    <dependency org="org.apache.logging.log4j" name="log4j-slf4j-impl" rev="2.25.4" conf="default"/>
  </dependencies>
</ivy-module>
"""
_NAMED = "set RECSYS_KAFKA_JARS to a folder with its jars, or KAFKA_HOME to an installed Kafka"

_log = structlog.get_logger(__name__)


def java() -> str:
    """The Java program. Raises `Unavailable`: there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if found is None:
        raise Unavailable("Apache Kafka needs Java 17 or newer: install it, or set JAVA_HOME")
    return found


def kafka_jars(named: Path | None = None) -> Path:
    """The folder of the jars: `named` (RECSYS_KAFKA_JARS), `$KAFKA_HOME/libs`, or the cache, which is filled once.

    Raises:
        InvalidConfig: the named folder, or KAFKA_HOME, has no Kafka.
        Unavailable: Maven Central cannot be reached; the message says what to set instead.
    """
    if named is not None:
        return _checked(named, "RECSYS_KAFKA_JARS")
    if home := os.environ.get("KAFKA_HOME"):
        return _checked(Path(home) / "libs", "KAFKA_HOME")
    cached = _cache() / f"kafka-{VERSION}"
    if not cached.is_dir():
        _log.info(f"resolves Apache Kafka {VERSION} from Maven Central, 44 MB, once", folder=str(cached))
        try:
            with staged_folder(cached) as folder:
                _resolve(folder)
        except OSError:
            if not cached.is_dir():  # else another process was faster
                raise
    return cached


def _checked(folder: Path, setting: str) -> Path:
    if not any(folder.glob("kafka_2.1?-*.jar")):
        raise InvalidConfig(f"{setting}: {folder} has no kafka_2.13-….jar, the server of Apache Kafka")
    return folder.absolute()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recsys"


def _resolve(folder: Path) -> None:
    """Fill an empty folder with the jars; Ivy checks them against the repository's checksums."""
    spark = find_spec("pyspark")
    if spark is None or spark.origin is None:
        raise Unavailable(f"Apache Kafka is resolved by pyspark's Ivy, which is not installed: {_NAMED}")
    dependencies = folder / "ivy.xml"
    dependencies.write_text(_DEPENDENCIES, encoding="utf-8")
    # fmt: off
    command = [
        java(), "-cp", f"{Path(spark.origin).parent}/jars/*", "org.apache.ivy.Main",
        "-ivy", str(dependencies), "-cache", str(folder / "ivy"), "-confs", "default",
        "-types", "jar", "bundle", "-retrieve", f"{folder}/[artifact]-[revision].[ext]",
    ]
    # fmt: on
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_RESOLVE_TIMEOUT_S, check=False
        )
        output, failed = done.stdout + done.stderr, done.returncode != 0
    except subprocess.TimeoutExpired:
        output, failed = f"no answer within {_RESOLVE_TIMEOUT_S} s", True
    shutil.rmtree(folder / "ivy", ignore_errors=True)
    dependencies.unlink()
    if failed or not any(folder.glob("kafka_2.13-*.jar")):
        reason = " | ".join(output.splitlines()[-3:])
        raise Unavailable(
            f"Apache Kafka {VERSION} cannot be resolved from Maven Central ({reason}): {_NAMED}"
        )
