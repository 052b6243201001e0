"""Builds the compiled part of the request path, `recsys.native._core`; everything else is in pyproject.toml.

It is optional: where no C++ compiler is found, the installation succeeds and the Python path serves. With
`SANITIZE=address,undefined` it is built for tests that look for invalid memory accesses.
"""

import os
from hashlib import sha256
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("recsys/native/src")
# contracted to fused multiply-adds, products would be rounded differently from Python's
FLAGS = ["-std=c++17", "-O3", "-fvisibility=hidden", "-ffp-contract=off"]


def digest() -> str:
    """Of the sources, as `recsys.native` computes it: it refuses what was built from others."""
    files = sorted(SOURCES.iterdir())
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def extensions() -> list[Extension]:
    try:
        import pybind11
    except ImportError:
        return []
    sanitize = os.environ.get("SANITIZE")
    checks = [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-O0", "-g1"] if sanitize else []
    return [
        Extension(
            "recsys.native._core",
            sources=sorted(map(str, SOURCES.glob("*.cpp"))),
            depends=sorted(map(str, SOURCES.glob("*.hpp"))),
            include_dirs=[pybind11.get_include()],
            define_macros=[("SOURCES", f'"{digest()}"')],
            extra_compile_args=[*FLAGS, *checks],
            extra_link_args=checks[:1] or ["-s"],
            language="c++",
            optional=True,
        )
    ]


setup(ext_modules=extensions())
