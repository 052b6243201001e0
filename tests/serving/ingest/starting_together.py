"""Rounds of processes that open one spool at the same moment: `python -m … FOLDER ROUNDS`; prints how many failed.

The processes are forks of this one, which has no thread: a start takes a millisecond.
"""

import os
import sys
import traceback
from pathlib import Path

from serving.ingest.outbox import Outbox
from tests.serving.flaky import FlakySink

TOGETHER = 2


def start(folder: Path, gate: int) -> int:
    """0: it opened the spool and accepted a record."""
    os.read(gate, 1)  # returns for all at once, when the parent closes the other end
    try:
        outbox = Outbox(folder, FlakySink(up=False), 1 << 20)
    except Exception:
        traceback.print_exc()
        return 1
    outbox.close(timeout_s=0)
    return 0


def main(folder: Path, rounds: int) -> int:
    failed = 0
    for _ in range(rounds):
        gate, opened = os.pipe()
        children = []
        for _ in range(TOGETHER):
            pid = os.fork()
            if pid == 0:
                os.close(opened)
                os._exit(start(folder, gate))
            children.append(pid)
        os.close(opened)
        os.close(gate)
        failed += sum(os.waitpid(pid, 0)[1] != 0 for pid in children)
    return failed


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]), int(sys.argv[2]))}\n")
