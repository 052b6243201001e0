"""Request bodies of the hot routes: decoded by msgspec, every failure named in one sentence."""

from typing import Any, Protocol, TypeVar

import msgspec

from serving.problems import Problem

JSON = "application/json"
T_co = TypeVar("T_co", covariant=True)


class Decoder(Protocol[T_co]):
    def decode(self, buf: bytes, /) -> T_co: ...


_untyped = msgspec.json.Decoder()


def decode(decoder: Decoder[T_co], body: bytes) -> T_co:
    """The decoded body. Raises `Problem`: 400 when it is not JSON, 422 when it is not what the route takes."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Problem(422, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Problem(400, f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise Problem(400, "the body is nested too deeply") from None


def decode_any(body: bytes) -> Any:
    """The decoded body, whatever JSON it is; the caller judges it."""
    return decode(_untyped, body)
