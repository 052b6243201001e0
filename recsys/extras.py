"""Optional packages: one that is missing is named, with the command that installs it.

Which extra has which package is said in pyproject.toml, and read here from the metadata of what is installed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from recsys.contracts.errors import MissingExtra

DISTRIBUTION = "recsys-reference"
# top-level module → its distribution, where the names differ
_DISTRIBUTIONS = {"opentelemetry": "opentelemetry-sdk", "sklearn": "scikit-learn"}


@cache
def packages_of(extra: str) -> frozenset[str]:
    """Distributions that this extra adds. Empty: there is no such extra, or the project is not installed."""
    try:
        requirements = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or ()]
    except metadata.PackageNotFoundError:
        return frozenset()
    return frozenset(
        canonicalize_name(each.name)
        for each in requirements
        if each.marker and each.marker.evaluate({"extra": extra}) and not each.marker.evaluate({"extra": ""})
    )


def extra_of(module: str) -> str | None:
    """The extra that has the package of this module; None: no extra has it."""
    top = module.partition(".")[0]
    package = canonicalize_name(_DISTRIBUTIONS.get(top, top))
    return next((extra for extra in _extras() if package in packages_of(extra)), None)


def require(*extras: str) -> None:
    """For work whose first steps do not need these extras, but later ones do.

    Raises:
        MissingExtra: naming those of which a package is not installed.
    """
    if missing := [extra for extra in extras if not _installed(extra)]:
        raise _missing("this command", f"the packages of {' and '.join(missing)}", ",".join(missing))


@contextmanager
def extra_named(needed_by: str = "this command") -> Iterator[None]:
    """The failed import of a package of an extra that is not installed becomes `MissingExtra`; other errors pass."""
    try:
        yield
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is None or _installed(extra):
            raise
        raise _missing(needed_by, str(error.name), extra) from error


def _extras() -> list[str]:
    try:
        return metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return []


def _installed(extra: str) -> bool:
    try:
        return all(metadata.version(package) for package in packages_of(extra))
    except metadata.PackageNotFoundError:
        return False


def _missing(needed_by: str, what: str, extras: str) -> MissingExtra:
    return MissingExtra(f"{needed_by} needs {what}: pip install '{DISTRIBUTION}[{extras}]'")
