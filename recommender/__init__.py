"""The Python API for notebooks: `from recommender import Recommender` (docs/python.md)."""

from recommender.recommender import Recommender

__all__ = ["Recommender"]
