"""Processes forked from one that has imported what they need: they are watched, restarted, and stopped in order.

A fork shares the memory of its parent until one of them writes to it. The parent therefore makes no thread, session or
connection, and takes its objects out of the garbage collector's reach, which would write to every one of them.
"""

import gc
import mmap
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from recsys.contracts.errors import RecsysError, Unavailable

_LOOK_S = 0.5
_GRACE_S = 25.0  # for requests in flight, and for what has been accepted
_STEADY_S = 10.0  # a process that has run for so long is restarted at once
_BACKOFF_S = (0.1, 10.0)  # first and longest wait before one that keeps ending is started again
_HUNG_S = 60.0  # a swap of bundles on a busy machine may hold a process up for seconds
_FAILED = 3
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Pulse:
    """What a child and its supervisor know of each other. A child that has started calls `beat` every few seconds."""

    orphaned: int  # file descriptor that becomes readable when the supervisor has ended, however that was
    _cell: "memoryview[float]"  # shared: when the child beat last, on the monotonic clock; 0.0: not yet

    def beat(self) -> None:
        self._cell[0] = time.monotonic()

    @property
    def at(self) -> float:
        return float(self._cell[0])

    def clear(self) -> None:
        self._cell[0] = 0.0


@dataclass(frozen=True)
class Kind:
    """Processes that are alike. `run` works in the child until SIGTERM."""

    name: str
    count: int
    run: Callable[[Pulse], None]


@dataclass
class _Slot:
    """The place of one process; its processes follow each other."""

    kind: Kind
    pulse: Pulse
    pid: int = 0  # 0: none runs
    started: float = 0.0
    due: float = 0.0  # when the next one starts
    wait_s: float = _BACKOFF_S[0]
    ever_ran: bool = False

    def ended(self) -> None:
        now, ran = time.monotonic(), self.pulse.at > 0
        self.ever_ran = self.ever_ran or ran
        if ran and now - self.started > _STEADY_S:
            self.wait_s, self.due = _BACKOFF_S[0], now
        else:
            self.due = now + self.wait_s
            self.wait_s = min(2 * self.wait_s, _BACKOFF_S[1])
        self.pid = 0


class Supervisor:
    """`ended` is called with the id of each process that has ended."""

    def __init__(
        self,
        kinds: Sequence[Kind],
        ended: Callable[[int], object] = lambda pid: None,
        hung_s: float = _HUNG_S,
    ) -> None:
        """`kinds`: in the order in which they are stopped. `hung_s`: without a beat for so long, a process is killed;
        before its first one it has all the time that it needs."""
        self._hung_s = hung_s
        self._ended = ended
        self._kinds = kinds
        orphaned, self._alive = os.pipe()
        shared = mmap.mmap(-1, 8 * sum(kind.count for kind in kinds))
        cells = memoryview(shared).cast("d")
        places = [kind for kind in kinds for _ in range(kind.count)]
        self._slots = [_Slot(kind, Pulse(orphaned, cells[i : i + 1])) for i, kind in enumerate(places)]
        self._stopping = False

    def run(self) -> None:
        """Until SIGTERM or SIGINT. Raises `Unavailable`: a kind of process cannot start at all."""
        gc.collect()
        gc.freeze()
        with self._signals() as wake:
            try:
                while not self._stopping:
                    for slot in self._slots:
                        self._look_after(slot)
                    select.select([wake], [], [], _LOOK_S)
                    with suppress(BlockingIOError):
                        os.read(wake, 1_024)
            finally:
                for kind in self._kinds:
                    self._stop(kind)

    def _look_after(self, slot: _Slot) -> None:
        now = time.monotonic()
        if not slot.pid:
            if now >= slot.due and not self._stopping:
                self._start(slot)
            return
        if slot.pulse.at and now - slot.pulse.at > self._hung_s:
            _log.error("a process hangs; it is killed", kind=slot.kind.name, pid=slot.pid)
            os.kill(slot.pid, signal.SIGKILL)
        status = self._reap(slot)
        if status == _FAILED and not any(
            s.ever_ran or s.pulse.at for s in self._slots if s.kind is slot.kind
        ):
            raise Unavailable(f"{slot.kind.name} did not start; its log says why")

    def _reap(self, slot: _Slot, options: int = os.WNOHANG) -> int | None:
        """The exit status of a slot's process; None while it runs."""
        pid, status = os.waitpid(slot.pid, options)
        if not pid:
            return None
        if not self._stopping:
            _log.warning("a process ended", kind=slot.kind.name, pid=pid, status=status)
        code = os.waitstatus_to_exitcode(status)
        slot.ended()
        self._ended(pid)
        return code

    def _start(self, slot: _Slot) -> None:
        slot.pulse.clear()
        slot.started = time.monotonic()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until the child has its own handlers
        slot.pid = os.fork()
        if not slot.pid:
            self._be(slot)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _be(self, slot: _Slot) -> None:
        """The whole life of a child."""
        code = _FAILED
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(self._alive)  # the supervisor alone has it open: its end is the end of the pipe
            slot.kind.run(slot.pulse)
            code = 0
        except RecsysError as error:  # it says what to do
            _log.error("cannot run", kind=slot.kind.name, error=str(error))
        except BaseException:
            traceback.print_exc()
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)  # what the supervisor has yet to do when it ends is not a child's

    def _stop(self, kind: Kind) -> None:
        """SIGTERM to all of a kind, then SIGKILL to those that take too long."""
        running = [slot for slot in self._slots if slot.kind is kind and slot.pid]
        for slot in running:
            os.kill(slot.pid, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        while running and time.monotonic() < deadline:
            running = [slot for slot in running if self._reap(slot) is None]
            time.sleep(0.02)
        for slot in running:
            os.kill(slot.pid, signal.SIGKILL)
            self._reap(slot, 0)

    @contextmanager
    def _signals(self) -> Iterator[int]:
        """A file descriptor that becomes readable with each signal."""
        readable, writable = os.pipe()
        for end in (readable, writable):
            os.set_blocking(end, False)
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
        try:
            yield readable
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(readable)
            os.close(writable)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._stopping = self._stopping or number != signal.SIGCHLD
