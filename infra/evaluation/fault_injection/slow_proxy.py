"""A TCP proxy that can be slow, as a bad network between the API and Redis."""

import asyncio
import contextlib
import threading
from typing import Self

_CHUNK = 1 << 16
_GRACE_S = 5.0


class SlowProxy:
    """A context manager: forwards 127.0.0.1:`port` to `target_port`, each chunk from the client `delay_s` late.

    A Redis call is one chunk each way, so it takes `delay_s` longer. What the target closes or refuses, it closes.
    """

    def __init__(self, target_port: int) -> None:
        self.delay_s = 0.0  # may be changed at any time
        self.port = 0
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slow-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._listens.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listens.set()
        self._loop.run_forever()
        server.close()
        for writer in self._writers:
            writer.close()
        if tasks := asyncio.all_tasks(self._loop):
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=_GRACE_S))
        self._loop.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        both = {back, writer}
        self._writers |= both
        await asyncio.gather(self._forward(reader, back, slow=True), self._forward(there, writer, slow=False))
        self._writers -= both

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slow: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_CHUNK):
                if slow and self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(piece)
                await writer.drain()
        writer.close()  # closed on one side, closed on the other
