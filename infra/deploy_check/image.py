"""Makes the root file systems of the project's images from the Dockerfile, without a container engine.

`debootstrap` stands in for the base image: the same release of Debian, and in `/usr/local` the Python that runs this.
The RUN steps of the stages that become an image are executed. The stages that only install packages are not: what their
lock files name is linked from this machine's virtual environment, nothing else, and the project is installed from a
wheel.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from infra.deploy_check.sandbox import chrooted
from recsys.contracts.errors import InvalidData, Unavailable
from recsys.files import staged_folder

VENV = Path(sys.prefix)
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_PREFIX = Path("opt/recsys")  # where the Dockerfile installs
# what the image of Python has besides
_LIBRARIES = "ca-certificates,netbase,tzdata,libssl3,libffi8,libsqlite3-0,libexpat1,libreadline8,libncursesw6"
# as the Dockerfile copies them
_SOURCES = (
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
    "recsys",
    "streaming",
    "serving",
    "training",
    "infra",
)
_WHEEL_TIMEOUT_S, _STEP_TIMEOUT_S = 300, 900


@dataclass
class Stage:
    """`steps`: (instruction, rest), those of the stage alone."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Image:
    """What a container of this image starts with."""

    root: Path
    environ: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    folder: str = "/"


def read_dockerfile(text: str) -> dict[str, Stage]:
    """The stages by name; arguments with a default are replaced by it. Raises `InvalidData`: an instruction before the
    first stage."""
    lines = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for line in filter(None, map(str.strip, lines.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = stages[name] = Stage(re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], base))
        elif current is None:
            raise InvalidData(f"the Dockerfile has {word} before its first FROM")
        else:
            current.steps.append((word, rest.strip()))
    return stages


def chain(stages: dict[str, Stage], name: str) -> list[str]:
    """The stages that a stage consists of, the first one first."""
    found = [name]
    while stages[found[0]].base in stages:
        found.insert(0, stages[found[0]].base)
    return found


class Builder:
    """Root file systems below `cache`, kept for as long as the steps that made them are the same."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self._repository = repository
        self._cache = cache
        dockerfile = repository / "infra" / "deploy" / "docker" / "Dockerfile"
        self._stages = read_dockerfile(dockerfile.read_text(encoding="utf-8"))

    def image(self, target: str) -> Image:
        """Raises `Unavailable`: a step failed, or debootstrap or a package of a lock file is missing."""
        names = chain(self._stages, target)
        steps = [step for name in names for step in self._stages[name].steps]
        base = self._stages[names[0]].base
        root = self._root(target, base, [rest for word, rest in steps if word == "RUN"])
        image = Image(root)
        for word, rest in steps:
            if word == "ENV":
                for name, value in re.findall(r"(\w+)=(\S+)", rest):
                    image.environ[name] = value.replace("$PATH", "/usr/local/bin:/usr/bin:/bin")
            elif word == "ENTRYPOINT":
                image.entrypoint = tuple(json.loads(rest))
            elif word == "CMD":
                image.arguments = tuple(json.loads(rest))
            elif word == "WORKDIR":
                image.folder = rest
            elif word == "COPY":
                self._install(root, re.findall(r"--from=(\S+)", rest)[0])
        return image

    def _root(self, target: str, base: str, commands: Sequence[str]) -> Path:
        release = re.search(r"python:(\d+\.\d+)-slim-(\w+)", base)
        if release is None:
            raise InvalidData(f"the Dockerfile begins with {base}, not with a slim image of Python")
        version, suite = release.groups()
        if version != _PYTHON:
            raise Unavailable(f"the images have Python {version}: run this check with it")
        debian = self._cache / f"{suite}-python{version}"
        if not debian.is_dir():
            if shutil.which("debootstrap") is None:
                raise Unavailable("debootstrap is not installed (Debian: apt-get install debootstrap)")
            with staged_folder(debian) as made:
                _checked(["debootstrap", "--variant=minbase", f"--include={_LIBRARIES}", suite, str(made)])
                _install_python(made / "usr" / "local")
                _checked(chrooted(made, ["ldconfig"]))
        digest = hashlib.sha256("\n".join([version, suite, *commands]).encode()).hexdigest()[:12]
        root = self._cache / f"{target}-{digest}"
        if not root.is_dir():
            with staged_folder(root) as made:
                _checked(["cp", "-a", f"{debian}/.", str(made)])
                shutil.copyfile("/etc/resolv.conf", made / "etc" / "resolv.conf")
                for command in commands:
                    _checked(chrooted(made, ["sh", "-c", command]))
        return root

    def _install(self, root: Path, stage: str) -> None:
        """Fill `/opt/recsys` as that stage does."""
        target = root / _PREFIX
        shutil.rmtree(target, ignore_errors=True)
        python = f"python{_PYTHON}"
        _checked(chrooted(root, [python, "-m", "venv", "--without-pip", f"/{_PREFIX}"]))
        commands = [rest for name in chain(self._stages, stage) for word, rest in self._stages[name].steps]
        locks = dict.fromkeys(re.findall(r"-r locks/(\w+)\.txt", " ".join(commands)))
        packages = target / "lib" / python / "site-packages"
        for lock in locks:
            text = (self._repository / "infra" / "setup" / "locks" / f"{lock}.txt").read_text(
                encoding="utf-8"
            )
            for name in locked(text):
                _link(name, packages, target / "bin")
        self._install_project(packages, target / "bin")

    def _install_project(self, packages: Path, programs: Path) -> None:
        """From a wheel of a copy of the sources, without compiling again: the compiled part is the working tree's."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "sources"
            for name in _SOURCES:
                source = self._repository / name
                if source.is_dir():
                    shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
                else:
                    copy.mkdir(exist_ok=True)
                    shutil.copy(source, copy)
            build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
            _checked(["env", "CC=false", "CXX=false", *build, "-w", folder, str(copy)], _WHEEL_TIMEOUT_S)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages)
        native = Path("recsys") / "native"
        for built in (self._repository / native).glob("_core*.so"):
            shutil.copy(built, packages / native)
        (entry_points,) = packages.glob("recsys_reference-*.dist-info/entry_points.txt")
        for name, module, function in re.findall(r"^(\w+) = ([\w.]+):(\w+)$", entry_points.read_text(), re.M):
            program = programs / name
            program.write_text(
                f"#!/{_PREFIX}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n",
                encoding="utf-8",
            )
            program.chmod(0o755)


def _install_python(prefix: Path) -> None:
    here = Path(sys.base_prefix)
    left = shutil.ignore_patterns("site-packages", "dist-packages", "test", "__pycache__", "config-*")
    library = f"python{_PYTHON}"
    shutil.copytree(here / "lib" / library, prefix / "lib" / library, symlinks=True, ignore=left)
    for shared in (here / "lib").glob(f"libpython{_PYTHON}.so*"):
        shutil.copy(shared, prefix / "lib", follow_symlinks=False)
    shutil.copy(Path(sys.executable).resolve(), prefix / "bin" / library)


def locked(text: str) -> Iterator[str]:
    """Names of the distributions in a lock file that this platform needs."""
    for line in re.findall(r"^([A-Za-z0-9][^\\\n]*?)\s*\\?$", text, re.M):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement.name


def _link(name: str, packages: Path, programs: Path) -> None:
    """Links to what the virtual environment has of this distribution, and copies of its programs."""
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise Unavailable(f"{VENV} lacks {name}, which a lock file names: run `make setup`") from None
    here = Path(str(distribution.locate_file("")))
    for file in distribution.files or ():
        top = file.parts[0]
        if top == ".." and file.parts[-2] == "bin":
            program = here / file
            if program.is_file():
                _copy_program(program, programs / program.name)
        elif top not in ("..", "__pycache__") and not (packages / top).is_symlink():
            (packages / top).symlink_to(here.resolve() / top)


def _copy_program(source: Path, target: Path) -> None:
    """With the image's Python where the first line names one."""
    first, end, rest = source.read_bytes().partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        target.write_bytes(f"#!/{_PREFIX}/bin/python".encode() + end + rest)
    else:
        shutil.copyfile(source, target)
    shutil.copymode(source, target)


def _checked(command: Sequence[str], timeout_s: float = _STEP_TIMEOUT_S) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).splitlines()[-5:]
        raise Unavailable(f"{' '.join(command)[:200]} ended with {done.returncode}: {' | '.join(said)}")
