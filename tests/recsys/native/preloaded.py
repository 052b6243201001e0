"""A pytest plugin: the compiled part from the file `NATIVE_CORE`, instead of the one that was installed."""

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location

_NAME = "recsys.native._core"

spec = spec_from_file_location(_NAME, os.environ["NATIVE_CORE"])
assert spec is not None and spec.loader is not None
sys.modules[_NAME] = module_from_spec(spec)
spec.loader.exec_module(sys.modules[_NAME])
