"""The Kubernetes overlays as kustomize renders them."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from infra.deploy_check.kubernetes import rendered
from recsys.contracts.errors import Unavailable

OVERLAYS = ("local", "production", "cuda")
_FOLDER = Path(__file__).parents[3] / "infra" / "deploy" / "k8s" / "overlays"


@cache
def rendered_overlay(name: str) -> list[Mapping[str, Any]]:
    """Its documents. Skips the test where kubectl is missing."""
    try:
        return rendered(_FOLDER / name)
    except Unavailable as error:
        pytest.skip(str(error))
