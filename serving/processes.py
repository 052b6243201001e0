"""What `recsys serve` runs: one process, or several under a supervisor.

The second composition root: this module is imported by the supervisor, and with it everything that its children share.
"""

from collections.abc import Callable
from functools import partial

from prometheus_client.multiprocess import mark_process_dead

from serving.api.listeners import listening
from serving.api.server import serve
from serving.assembly import make_app
from serving.settings import ServingSettings
from serving.supervisor import Kind, Supervisor


def run(settings: ServingSettings, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM. `announce`: called with the URL.
    Raises `Unavailable`: the port is taken, or the app cannot start."""
    with listening(settings, announce) as open_listener:
        if settings.workers == 1:
            serve(settings, make_app, open_listener)
            return
        api = Kind("the API", settings.workers, partial(serve, settings, make_app, open_listener))
        Supervisor([api], ended=mark_process_dead).run()
