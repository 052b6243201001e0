"""Memory does not grow with the log: a process imports a short log, another one a log five times as long."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from recsys.contracts.types import MS_PER_DAY
from tests.recsys.datasets import samples

_IMPORT = """
import sys
from pathlib import Path
from recsys.datasets import reading
from recsys.datasets.importer import import_dataset
from recsys.datasets.opening import open_dataset

reading._CHUNK_ROWS = 5_000
report = import_dataset(open_dataset(Path(sys.argv[1])), Path(sys.argv[2]), max_rows=int(sys.argv[3]))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))  # ru_maxrss is the parent's
print(report.events, peak.split()[1])
"""


def peak_kib(rows: int, folder: Path, max_rows: int = 40_000) -> int:
    """Peak memory of a process that imports so many events, all of one day."""
    samples.table(folder, [])
    numbers = np.random.default_rng(0)
    start = 875_000_000_000 // MS_PER_DAY * MS_PER_DAY
    columns = {
        "u": numbers.integers(0, 5_000, rows),
        "i": numbers.integers(0, 1_000, rows),
        "t": start + numbers.permutation(rows) * (MS_PER_DAY // rows),
        "v": numbers.integers(1, 6, rows),
        "p": numbers.integers(0, 50, rows),
        "c": pa.array(np.full(rows, "a text that every event carries along in its context")),
    }
    pa.csv.write_csv(pa.table(columns), folder / "events.csv")
    command = [sys.executable, "-c", _IMPORT, str(folder), str(folder / "lake"), str(max_rows)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=250).stdout
    events, peak = map(int, printed.split())
    assert events == rows
    return peak


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_five_times_the_events_need_no_more_memory(tmp_path: Path) -> None:
    short, long = peak_kib(100_000, tmp_path / "short"), peak_kib(500_000, tmp_path / "long")
    # measured: 32 MiB more, and 330 MiB more when `max_rows` does not hold it
    assert long - short < 120 * 1024, f"{short} → {long} KiB"
