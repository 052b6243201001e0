"""*Before*, *after*, and the steps between them: only settings of `recsys serve` and the bundle's ranker differ.

docs/adr/0009-before-and-after.md says why *before* is a fair baseline. All share the log, the catalogue, the recall
channels and the number of candidates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

VariantName = Literal["teacher", "student", "compiled"]


@dataclass(frozen=True)
class Deployment:
    """One way to serve.

    `variant`: of the ladder, the bundle's ranker. `settings`: environment of `recsys serve`. `stream`: a feature worker
    runs; otherwise `recsys features nightly` does, once a night.
    """

    name: str
    what: str
    variant: VariantName
    settings: Mapping[str, str]
    stream: bool = False
    kept: bool = True  # whether the later steps have it, too

    @property
    def nightly(self) -> bool:
        """Whether it reads last night's documents."""
        return self.settings.get("RECSYS_FEATURE_SOURCE", "stream") != "stream"


_DOCUMENTS = {"RECSYS_FEATURE_SOURCE": "documents"}
_IN_MEMORY = {"RECSYS_FEATURE_SOURCE": "nightly"}
_EXACT = {"RECSYS_INDEX": "exact"}
_ONE_AT_A_TIME = {"RECSYS_THREADS": "1"}
_NO_CACHES = {"RECSYS_RESULT_CACHE_MS": "0", "RECSYS_VECTOR_CACHE_BYTES": "0"}
# in the order of the scores; a slow request is still answered: none of its stages is cut
_COMMON = {"RECSYS_DIVERSITY": "none", "RECSYS_DEADLINE_MS": "5000", "RECSYS_STORE_TIMEOUT_MS": "1000"}
_WITH_INDEX = {**_DOCUMENTS, **_ONE_AT_A_TIME, **_NO_CACHES, **_COMMON}
_WITH_COLUMNS = {**_WITH_INDEX, **_IN_MEMORY}
_WITH_BATCHES = {**_IN_MEMORY, **_NO_CACHES, **_COMMON, "RECSYS_BATCH": "4"}

BEFORE = Deployment(
    "before",
    "fp32 teacher, exact scan, last night's documents read with each request, one request at a time, no cache",
    "teacher",
    {**_WITH_INDEX, **_EXACT},
)
AFTER = Deployment("after", "everything, with the defaults of `recsys serve`", "compiled", {}, stream=True)

# one change at a time, from before to after
_BATCHED = "two threads, the tower runs on several requests together"
_CACHED = "two threads, cached lists and user vectors"
STEPS = (
    BEFORE,
    Deployment("student", "a distilled student ranks", "student", BEFORE.settings),
    Deployment(
        "compiled", "the student in 8 bits, compiled (pruned, in the ladder)", "compiled", BEFORE.settings
    ),
    Deployment("ann", "the bundle's index", "compiled", _WITH_INDEX),
    Deployment("columns", "item features in memory", "compiled", _WITH_COLUMNS),
    Deployment("batching", _BATCHED, "compiled", _WITH_BATCHES, kept=False),
    Deployment("caches", _CACHED, "compiled", {**_IN_MEMORY, **_COMMON}),
    Deployment("stream", "features of this moment by a feature worker", "compiled", _COMMON, stream=True),
    AFTER,
)
