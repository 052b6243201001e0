"""`recsys serve` with one more route, `POST /v1/fail`, which fails as a bug would: its error quotes the Redis URL, its
local variables are the key and the body.
"""

from typing import Any, NoReturn

from serving.api.listeners import listening
from serving.api.server import serve
from serving.assembly import make_app
from serving.settings import ServingSettings


def make_faulty_app(settings: ServingSettings) -> Any:
    async def fail(request: Any) -> NoReturn:
        key, body = request.headers["x-api-key"], await request.body()
        url = settings.redis_url.get_secret_value()
        raise RuntimeError(f"{url} took {len(body)} bytes of a key of {len(key)} letters")

    app: Any = make_app(settings)  # Starlette, which only serving knows
    app.add_route("/v1/fail", fail, methods=["POST"])
    return app


if __name__ == "__main__":
    with listening(settings := ServingSettings(), lambda url: None) as open_listener:
        serve(settings, make_faulty_app, open_listener)
