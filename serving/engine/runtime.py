"""A bundle made ready to answer: what was loaded from it, and its request path."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from recsys.bundle import Bundle
from recsys.items.catalogue import Catalogue
from recsys.pipeline.pipeline import Pipeline
from serving.engine.artifacts import Artifacts, LoadOptions, load_artifacts
from serving.engine.live_catalogue import LiveCatalogue
from serving.engine.pipeline_builder import PathConfig, PipelineBuilder, PipelineConfig

USER_FEATURES = "user_features"  # how `degraded` names a store that does not return the user's state
_PATHS = 64  # request paths of one bundle that stay composed


@dataclass(frozen=True)
class Runtime:
    """A loaded bundle that all requests share. A new bundle gets a new one.
    `compose` builds another request path on the same models, index and catalogue."""

    artifacts: Artifacts
    pipeline: Pipeline
    path: PathConfig  # what `pipeline` was composed of
    ranks_by: str  # the ranker's runtime, for people
    compose: Callable[[PathConfig], Pipeline] = field(repr=False)

    @property
    def bundle(self) -> Bundle:
        return self.artifacts.bundle

    @property
    def catalogue(self) -> Catalogue:
        return self.artifacts.catalogue

    @property
    def live(self) -> LiveCatalogue:
        return self.artifacts.live

    def on(self, path: PathConfig) -> "Runtime":
        """This bundle with another request path, composed once."""
        if path is self.path:  # the usual case; comparing two takes longer than many a stage
            return self
        pipeline = self.compose(path)
        return self if pipeline is self.pipeline else replace(self, pipeline=pipeline, path=path)


def build_runtime(bundle: Bundle, config: PipelineConfig, options: LoadOptions | None = None) -> Runtime:
    """Load the bundle and compose its request path.
    Raises `InvalidBundle`: a file cannot be used, two files disagree, or the golden outputs differ."""
    artifacts = load_artifacts(bundle, options or LoadOptions())
    config.services.prepare(bundle.manifest.version)
    builder = PipelineBuilder(artifacts, config)
    compose = lru_cache(_PATHS)(builder.build)
    return Runtime(artifacts, compose(config.path), config.path, builder.ranker.runtime, compose)
