"""The compiled part is built wherever a compiler is, and its absence is said."""

import shutil
import subprocess
import sys

import pytest

import recsys.native
from recsys.native import Native, core, serves

WITHOUT = "import sys; sys.modules['recsys.native._core'] = None; import recsys.native as n; "


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler here")
def test_it_is_built_where_there_is_a_compiler() -> None:
    assert core is not None, recsys.native.MISSING
    assert serves(Native.AUTO) and serves(Native.ON) and not serves(Native.OFF)


def test_without_it_auto_serves_in_python_and_on_is_refused() -> None:
    """In a process of its own: what is imported here stays."""
    code = WITHOUT + "print(n.serves(n.Native.AUTO), n.serves(n.Native.OFF)); n.serves(n.Native.ON)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.stdout == "False False\n"
    assert ended.stderr.splitlines()[-1].startswith("recsys.contracts.errors.InvalidConfig: RECSYS_NATIVE=on")
    assert "compiler" in ended.stderr


@pytest.mark.parametrize(
    "digest", ["m.SOURCES = 'older'", "pass"], ids=["of others", "from before it had one"]
)
def test_what_was_built_from_other_sources_does_not_serve(digest: str) -> None:
    stale = f"import sys, types; m = types.ModuleType('_core'); {digest}; m.__file__ = '_core.so'; "
    code = (
        stale + "sys.modules['recsys.native._core'] = m; import recsys.native as n; print(n.core, n.MISSING)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        ended.stdout == "None _core.so was built from other sources: `make setup`, or `pip install .` again\n"
    )
