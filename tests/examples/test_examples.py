"""The commands in the examples' README files print what these say."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.evaluation.benchmarks.first_answer import EXAMPLES as FIRST_ANSWERS
from infra.quickstart import mapped
from recsys.datasets.importer import validate_dataset
from recsys.datasets.mapping import read_mapping
from recsys.datasets.opening import MAPPING_FILE, open_dataset

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
README_FILES = sorted(EXAMPLES.glob("*/README.md"))
SPARK_README_FILES = [file for file in README_FILES if "features build" in file.read_text(encoding="utf-8")]


def commands(readme: Path) -> list[tuple[str, str]]:
    """(command, what it prints) of each console block."""
    blocks = re.findall(r"```console\n\$ (.+?)\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks, readme
    return blocks


def run(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    name, *arguments = shlex.split(command)
    assert name == "recsys", command
    return subprocess.run(
        [sys.executable, "-m", "infra.cli.main", *arguments],
        cwd=ROOT,
        env={**os.environ, "RECSYS_HOME": str(home), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def printed(done: subprocess.CompletedProcess[str]) -> str:
    """Standard output, or standard error of a command that fails; without trailing spaces."""
    text = done.stdout if done.returncode == 0 else done.stderr
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def check_own_lines_only(build: subprocess.CompletedProcess[str], home: Path) -> None:
    """What Spark and Java print is in the log, not in the terminal of `features build`."""
    report = {name: int(n) for name, n in re.findall(r"│ (\w+) +│ (\d+) +│", build.stdout)}
    assert build.stderr.splitlines() == [
        f"{report['days']} days to build, 0 are up to date; {report['events']} events, 2 buckets",
        f"{report['examples']} examples written",
    ]
    assert "log4j" in (home / "logs" / "spark.log").read_text()


def check(readme: Path, home: Path, *, spark: bool) -> None:
    for command, expected in commands(readme):
        if spark or "features build" not in command:
            pattern = re.sub(r"… *", ".*", re.escape(expected).replace(r"\ ", " "))
            done = run(command, home)
            assert re.fullmatch(pattern, printed(done)), f"{readme}: {command} prints\n{printed(done)}"
            if "features build" in command:
                check_own_lines_only(done, home)


@pytest.mark.parametrize("readme", README_FILES, ids=lambda path: path.parent.name)
def test_the_commands_print_what_the_readme_says(readme: Path, tmp_path: Path) -> None:
    check(readme, tmp_path, spark=False)


@pytest.mark.parametrize("kind", [folder.name for folder in FIRST_ANSWERS])
def test_quickstart_guesses_the_mapping_that_is_written_next_to_the_tables(kind: str, tmp_path: Path) -> None:
    written = read_mapping(EXAMPLES / kind / MAPPING_FILE)
    tables = shutil.copytree(EXAMPLES / kind, tmp_path / kind, ignore=shutil.ignore_patterns(MAPPING_FILE))
    folder, file = mapped([tables], tmp_path, lambda guess, file: None)
    assert file is not None
    guessed = read_mapping(file)
    not_guessed = {
        "events": {"files", "context"}
    }  # the shop's: a pattern, and a column that no feature reads
    assert guessed.model_dump(exclude=not_guessed) == written.model_dump(exclude=not_guessed)
    report = validate_dataset(open_dataset(folder, mapping=file), strict=True)
    assert report.events == validate_dataset(open_dataset(EXAMPLES / kind)).events > 0


@pytest.mark.slow
@pytest.mark.spark
@pytest.mark.parametrize("readme", SPARK_README_FILES, ids=lambda path: path.parent.name)
def test_features_are_built_from_the_example(readme: Path, tmp_path: Path) -> None:
    check(readme, tmp_path, spark=True)


def test_every_example_is_in_the_list() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    folders = [path for path in EXAMPLES.iterdir() if path.is_dir()]
    assert [folder for folder in folders if f"({folder.name}/README.md)" not in text] == []
