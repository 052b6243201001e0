"""Work in a process that gets SIGKILL before one of its steps."""

import os
import signal
from collections.abc import Callable, Sequence
from typing import Any


def killed(step: int, places: Sequence[tuple[type, str]], work: Callable[[], object]) -> bool:
    """Do the work in a process that is killed before the given one of its calls; False: it has fewer, and succeeded."""
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, -signal.SIGKILL)
        return code != 0
    calls = 0

    def dying(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return original(*arguments, **named)

        return call

    try:
        for owner, name in places:
            setattr(owner, name, dying(getattr(owner, name)))
        work()
        os._exit(0)
    finally:
        os._exit(1)
