"""How many processor cores this process may use."""

import os


def cores() -> int:
    """Those that containers and `taskset` leave it, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
