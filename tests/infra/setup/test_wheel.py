"""The wheel, installed without extras and used outside the repository, serves as the checkout does.

The environment has what the wheel requires and no more, as `uv pip check` confirms. These packages are links to those
that the tests run with, so nothing is downloaded. `.ci/wheel` installs them from an index instead.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import httpx
import pytest
import uv
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from infra.cli.main import COMMANDS
from infra.local.process import ChildProcess, free_port
from recsys import native
from recsys.extras import DISTRIBUTION
from tests.bundles import write_tiny_bundle

ROOT = Path(__file__).parents[3]
PACKAGES = ("recsys", "streaming", "serving", "training", "infra")
NOT_INSTALLED = ("recsys/native/src/", "infra/deploy/", "infra/setup/")
NOWHERE = {"RECSYS_REDIS_URL": "redis://127.0.0.1:1", "RECSYS_KAFKA_BOOTSTRAP": "127.0.0.1:1"}
# nothing is skipped on a busy machine
PATIENT = {"RECSYS_DEADLINE_MS": "30000", "RECSYS_STORE_TIMEOUT_MS": "30000"}
STARTS_S = 240.0

pytestmark = [pytest.mark.slow, pytest.mark.redis, pytest.mark.kafka, pytest.mark.timeout(600)]


def uv_run(*arguments: str | Path) -> None:
    done = subprocess.run([uv.find_uv_bin(), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def sources_of(package: str) -> list[Path]:
    """The package's files in the checkout, relative to its root."""
    files = (file.relative_to(ROOT) for file in (ROOT / package).rglob("*") if file.is_file())
    return [file for file in files if "__pycache__" not in file.parts and file.suffix != ".so"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, so that the checkout stays clean. Compiled code that is up to date is not
    compiled again."""
    copy = tmp_path_factory.mktemp("sources")
    top = map(Path, ("pyproject.toml", "setup.py", "README.md", "LICENSE"))
    for file in [*top, *(file for package in PACKAGES for file in sources_of(package))]:
        (copy / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, copy / file)
    if native.core is not None:
        library = f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
        built = copy / "build" / library / "recsys" / "native"
        built.mkdir(parents=True)
        shutil.copyfile(native.core.__file__, built / Path(native.core.__file__).name)
    uv_run("build", "--wheel", "--no-build-isolation", "--python", sys.executable, copy)
    [wheel] = (copy / "dist").glob("*.whl")
    return wheel


@dataclass(frozen=True)
class Installed:
    """An environment, used from its own folder."""

    venv: Path
    environ: dict[str, str]

    def run(self, *command: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        """A program of the environment, to its end."""
        program = self.venv / "bin" / command[0]
        environ = self.environ | settings
        return subprocess.run(
            [program, *command[1:]], cwd=self.venv, env=environ, capture_output=True, text=True, check=False
        )

    @contextmanager
    def running(self, log: Path, ready: Callable[[], bool], *arguments: str) -> Iterator[None]:
        """A `recsys` command that runs until it is stopped."""
        child = ChildProcess([self.venv / "bin" / "recsys", *arguments], log, self.venv, self.environ)
        try:
            child.wait_until(ready, STARTS_S)
            yield
        finally:
            child.stop()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A new virtual environment with the wheel and what it requires."""
    venv = tmp_path_factory.mktemp("environment")
    uv_run("venv", "--python", sys.executable, "--clear", venv)
    [site] = venv.glob("lib/python*/site-packages")
    for distribution in required(Requirement(DISTRIBUTION)).values():
        for file in distribution.files or () if distribution.name != DISTRIBUTION else ():
            target = Path(os.path.normpath(site / file))
            if target.is_relative_to(site) and file.suffix != ".pyc":
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(str(file.locate()))
    uv_run("pip", "install", "--offline", "--no-deps", "--python", venv, wheel)
    uv_run("pip", "check", "--python", venv)
    given = {name: value for name, value in os.environ.items() if not name.startswith(("RECSYS_", "PYTHON"))}
    home = tmp_path_factory.mktemp("home")
    return Installed(venv, given | PATIENT | {"RECSYS_HOME": str(home)})


def required(requirement: Requirement) -> dict[str, metadata.Distribution]:
    """The installed distribution that is required, and those that it requires; by name."""
    found: dict[str, metadata.Distribution] = {}
    open_ends, done = [requirement], set[str]()
    while open_ends:
        each = open_ends.pop()
        if (key := f"{each.name}{sorted(each.extras)}") not in done:
            done.add(key)
            distribution = found[canonicalize_name(each.name)] = metadata.distribution(each.name)
            open_ends += [
                needed
                for needed in map(Requirement, distribution.requires or ())
                if needed.marker is None
                or any(needed.marker.evaluate({"extra": extra}) for extra in {"", *each.extras})
            ]
    return found


def test_the_wheel_has_the_files_of_the_packages_and_says_what_it_is_for(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        [about] = (packed.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    ours = {file.as_posix() for package in PACKAGES for file in sources_of(package)}
    compiled = {name for name in names if name.startswith("recsys/native/_core.")}
    assert len(compiled) == (native.core is not None)
    assert {name for name in names if ".dist-info/" not in name} - compiled == {
        name for name in ours if not name.startswith(NOT_INSTALLED)
    }
    versions = re.findall(r"^Classifier: Programming Language :: Python :: (3\.\d+)$", about, re.MULTILINE)
    assert versions == ["3.11", "3.12", "3.13"]


def test_every_help_works_without_extras(installed: Installed) -> None:
    done = installed.run("python", Path(__file__).with_name("help_tree.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Usage: ") > len(COMMANDS)


@pytest.mark.parametrize(
    ("command", "settings", "extras"),
    [
        ("train all", {}, "train"),
        ("features build", {}, "spark"),
        ("quickstart nothing.csv", {}, "train,spark"),
        ("bench batch --quick", {}, "dev"),
        ("serve --port 0", NOWHERE | {"RECSYS_TRACES": "console"}, "otel"),
        ("serve --port 0", NOWHERE | {"RECSYS_MILVUS_URI": "http://127.0.0.1:1"}, "milvus"),
    ],
)
def test_a_missing_extra_is_one_line_with_the_command_that_installs_it(
    installed: Installed, command: str, settings: dict[str, str], extras: str
) -> None:
    done = installed.run("recsys", *command.split(), **settings)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("recsys api: ")]
    assert line.startswith("error: ")
    assert line.endswith(f": pip install 'recsys-reference[{extras}]'")


def test_it_imports_streams_and_serves(installed: Installed, tmp_path: Path) -> None:
    shop = shutil.copytree(ROOT / "examples" / "shop", tmp_path / "shop")
    home = Path(installed.environ["RECSYS_HOME"])
    bundle = write_tiny_bundle(home / "bundles").manifest.version
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    client = httpx.Client(base_url=url, timeout=30.0)

    def ready() -> bool:
        try:
            return client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def recsys(*arguments: str | Path) -> str:
        done = installed.run("recsys", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    recsys("data", "import", shop)
    up = installed.running(tmp_path / "up.log", (home / "run" / "services.json").exists, "up")
    api = installed.running(tmp_path / "api.log", ready, "serve", "--port", str(port))
    with closing(client), up, api:
        assert json.loads(recsys("stream", "replay", "--speed", "0", "--json"))["events"] == 8
        answer = client.post("/v1/recommendations", json={"user_id": "ann", "k": 5}).json()
        assert (answer["bundle"], answer["degraded"], len(answer["items"])) == (bundle, [], 5)
        expected = "native" if native.core is not None else "python"
        assert client.get("/readyz").json()["request_path"].startswith(expected)
        assert "rerank" in recsys("explain", "ann", "--api", url)
        web = ROOT / "serving" / "web"
        assert client.get("/").text == (web / "index.html").read_text(encoding="utf-8")
        for asset in (file for file in web.rglob("*") if file.is_file()):
            served = client.get(f"/static/{asset.relative_to(web).as_posix()}")
            assert served.content == asset.read_bytes(), asset
