"""An executor that runs its work at once, in the thread that submits it."""

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class InlineExecutor(Executor):
    """For the recall stages of one request. A recall channel takes some hundred microseconds and holds Python's lock
    for most of it: handing it to another thread costs more than it could win, unless processors are idle."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future
