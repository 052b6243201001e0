"""The deployments of the case study: settings that exist, one change per step."""

from itertools import pairwise

from infra.evaluation.case_study.deployments import AFTER, BEFORE, STEPS
from recsys.settings import PREFIX
from serving.settings import FeatureSource, IndexKind, ServingSettings


def test_every_setting_exists_and_before_is_what_it_says() -> None:
    for step in STEPS:
        given = {name.removeprefix(PREFIX).lower(): value for name, value in step.settings.items()}
        settings = ServingSettings.model_validate(given)
        assert step.nightly == (settings.feature_source is not FeatureSource.STREAM) == (not step.stream)
    before = ServingSettings.model_validate(
        {name.removeprefix(PREFIX).lower(): value for name, value in BEFORE.settings.items()}
    )
    assert before.feature_source is FeatureSource.DOCUMENTS
    assert before.index is IndexKind.EXACT
    assert (before.threads, before.batch, before.result_cache_ms, before.vector_cache_bytes) == (1, 1, 0, 0)


def test_each_step_differs_from_the_one_before_and_the_last_is_after() -> None:
    assert STEPS[0] is BEFORE
    assert STEPS[-1] is AFTER
    kept = [step for step in STEPS if step.kept]
    assert len({step.name for step in STEPS}) == len(STEPS)
    for step, following in pairwise(kept):
        assert (step.variant, step.settings, step.stream) != (
            following.variant,
            following.settings,
            following.stream,
        )
    assert not AFTER.settings
