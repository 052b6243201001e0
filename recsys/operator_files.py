"""Files that people and other programs write, through a schema.

Whatever lies at the path (a folder, a pipe, another encoding, a document nested without end, values of other types),
the caller gets the value or its own kind of error, which names the file and the place in it.
"""

import json
import os
import stat
from pathlib import Path
from typing import TypeVar

import msgspec
import yaml
from pydantic import BaseModel, ValidationError

from recsys.contracts.errors import RecsysError

MAX_BYTES = 256 << 20  # a warm start names every item
_MAX_YAML_BYTES = 1 << 20  # its parser takes seconds for each
_SHOWN = 10  # problems of one file in its message
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
Refusal = type[RecsysError]


def read_bytes(path: Path, refusal: Refusal, most: int = MAX_BYTES) -> bytes:
    """The content of a regular file, also behind a link.

    Raises:
        FileNotFoundError: there is none.
        refusal: it cannot be read, or has more than `most` bytes.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe would wait for its writer
        with open(handle, "rb") as file:  # noqa: PTH123 - a handle
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise refusal(f"{path}: not a regular file")
            content = file.read(most + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null
        raise refusal(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > most:
        raise refusal(f"{path}: more than {most >> 20} MiB; it is not a file of this kind")
    return content


def read_text(path: Path, refusal: Refusal, most: int = MAX_BYTES) -> str:
    """As `read_bytes`; the refusal also says that it is not UTF-8."""
    try:
        return read_bytes(path, refusal, most).decode()
    except UnicodeDecodeError as error:
        raise refusal(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error


def read_json(path: Path, kind: type[T], refusal: Refusal) -> T:
    """`kind`: what msgspec converts to, such as a dataclass or `dict[str, int]`. NaN is read, as our writers leave it.

    Raises:
        FileNotFoundError: there is none.
        refusal: it is not JSON, or not of this kind.
    """
    return parse_json(read_bytes(path, refusal), path, kind, refusal)


def parse_json(text: bytes, path: Path, kind: type[T], refusal: Refusal) -> T:
    """As `read_json`, of what has been read from the path."""
    try:
        content = json.loads(text.decode())
        msgspec.json.encode(content)  # refuses text that cannot be encoded and integers above 64 bits
        return msgspec.convert(content, kind)
    except RecursionError as error:
        raise refusal(f"{path}: nested too deeply") from error
    except (ValueError, OverflowError) as error:  # msgspec's are ValueErrors
        raise refusal(f"{path}: {error}") from error


def read_yaml(path: Path, kind: type[M], refusal: Refusal) -> M:
    """An empty file is an empty mapping.

    Raises:
        refusal: there is none, or it is not YAML of this kind; it names every wrong key.
    """
    try:
        content = yaml.safe_load(read_text(path, refusal, _MAX_YAML_BYTES))
        return kind.model_validate({} if content is None else content)
    except FileNotFoundError as error:
        raise refusal(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise refusal(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        raise refusal(f"{path}: {problems_of(error)}") from error
    except RecursionError as error:
        raise refusal(f"{path}: nested too deeply") from error
    except (ValueError, OverflowError, TypeError, LookupError) as error:  # values that PyYAML cannot make
        raise refusal(f"{path}: not YAML: {error}") from error


def problems_of(error: ValidationError) -> str:
    """Each wrong key with what is wrong, up to `_SHOWN`."""
    wrong = (f"{'.'.join(map(str, e['loc'])) or 'content'}: {e['msg']}" for e in error.errors())
    return "; ".join(list(wrong)[:_SHOWN])
