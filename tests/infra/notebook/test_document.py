"""docs/python.md names the roles and settings that there are; `test_recommender` runs its first example."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from infra.notebook import Recommender
from infra.notebook.dataset import ROLES
from infra.notebook.fitting import two_tower_config

TEXT = (Path(__file__).parents[3] / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_second_example_has_roles_and_settings_that_there_are() -> None:
    _, example = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    asked: dict[str, Any] = {}
    names = {"Recommender": SimpleNamespace(fit=lambda events, **given: asked.update(given))}
    exec(example, {**names, "ratings": None, "movies": None})  # noqa: S102 - the document's own code
    assert asked["columns"].keys() <= ROLES.keys()
    own = {"items", "columns", "progress"}
    assert two_tower_config(Path(), {name: asked[name] for name in asked.keys() - own}).epochs == 1


def test_every_role_and_method_is_documented() -> None:
    assert not [role for role in ROLES if f"`{role}`" not in TEXT]
    public = [name for name in vars(Recommender) if not name.startswith("_")]
    assert not [name for name in public if f".{name}(" not in TEXT]
