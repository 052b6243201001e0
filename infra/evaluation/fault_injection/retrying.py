"""What users of the official client see while parts die: it retries what was not answered."""

import threading
from typing import Self

from recsys.client import Client
from recsys.contracts.errors import RecsysError

_CLIENTS = 2
_PAUSE_S = 0.05


class RetryingClients:
    """A context manager: threads that ask for lists and send clicks until it exits."""

    def __init__(self, url: str, seed: int) -> None:
        self.calls = self.errors = 0
        self.accepted: list[str] = []
        self._url = url
        self._seed = seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(_CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        user = f"retrying-{self._seed}-{number}"
        with Client(self._url) as client:
            while not self._stop.wait(_PAUSE_S):
                accepted: list[str] = []
                failed = 0
                try:
                    answer = client.recommend(user, k=10)
                    event = client.outcome("click", answer, 0)
                    accepted = [r.event_id for r in client.send([event]).results if r.status == "accepted"]
                except RecsysError:
                    failed = 1
                with self._lock:
                    self.calls += 2
                    self.errors += failed
                    self.accepted += accepted
