"""What a serving process must not load: libraries of training and analysis that are installed beside it."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from recsys.datasets.base import USER_SCHEMA
from recsys.lake.lake import write_parquet
from tests.bundles import write_tiny_bundle

_SERVES = """
import sys
from pathlib import Path
import serving.api.server
from recsys.bundle import open_bundle
from recsys.features.definitions import FEATURES
from recsys.pipeline.hydrators import UserHydrator
from recsys.store.memory import MemoryFeatureStore
from serving.engine.pipeline_builder import PipelineConfig
from serving.engine.runtime import USER_FEATURES, build_runtime
from serving.engine.user_attributes import UserAttributes

bundle = open_bundle(Path(sys.argv[1]))
read_user = UserHydrator(MemoryFeatureStore(FEATURES), name=USER_FEATURES)
build_runtime(bundle, PipelineConfig(read_user))
UserAttributes(Path(sys.argv[2]), FEATURES)
heavy = ("pandas", "pyarrow.dataset", "pyspark", "torch", "scipy", "sklearn", "matplotlib", "sympy", "statsmodels")
print(" ".join(name for name in heavy if name in sys.modules))
"""


def test_serving_loads_nothing_that_only_training_needs(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundles", version="v1")
    users = tmp_path / "users.parquet"
    rows = {"user_id": ["u1"], "attributes": [[("age", "30")]]}
    write_parquet(users, pa.table(rows, schema=USER_SCHEMA))
    command = [sys.executable, "-c", _SERVES, str(bundle.path), str(users)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
