"""The Python API for notebooks: `from infra.notebook import Recommender` (docs/python.md)."""

from infra.notebook.recommender import Recommender

__all__ = ["Recommender"]
