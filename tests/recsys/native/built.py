"""Marks tests of the compiled code."""

import pytest

from recsys.native import MISSING, core

needs_native = pytest.mark.skipif(core is None, reason=MISSING)
