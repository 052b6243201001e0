"""The objects below one prefix of a bucket: read and written whole, listed, replaced on a condition.

boto3 finds credentials, region and endpoint as every AWS client does: `AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, a role of the
machine or the pod; `AWS_ENDPOINT_URL_S3` for a server that is not Amazon's. No credential passes through this module.
`AWS_REGION` is read here: AWS's other clients know it, boto3 only `AWS_DEFAULT_REGION`.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import boto3
import botocore.exceptions
from boto3.exceptions import RetriesExceededError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
)

from recsys.contracts.errors import AccessRefused, InvalidConfig, InvalidData, RecsysError, Unavailable

_CONFIG = Config(
    connect_timeout=5,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 4},
    max_pool_connections=32,
)
_TRANSFER = TransferConfig(max_concurrency=4)  # of the parts of one large file
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MISSING = {"404", "NoSuchKey"}
_OVERTAKEN = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict"}
_REFUSED = {
    "401",
    "403",
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
}
_UNKNOWN = {
    "501",
    "NotImplemented",
    "405",
    "MethodNotAllowed",
    "InvalidRequest",
}  # no outage: waiting is in vain
_MOST_DELETED = 1_000  # by one request
_MOST_READ = 1 << 28  # bytes; a snapshot has about 200 per file
_CREDENTIALS = re.compile(r"\S+:\S*@")


class Read(NamedTuple):
    content: bytes
    version: str  # of the object, for `replace`


class ObjectStore:
    """Thread-safe. Every method raises `Unavailable` (the network, the server), `AccessRefused` (the credentials) or
    `InvalidConfig` (no such bucket, no credentials); names are relative to the prefix."""

    def __init__(self, url: str) -> None:
        """`url`: `s3://bucket/prefix`. Raises `InvalidConfig`: it is another one."""
        parts = urlsplit(url)
        if "@" in parts.netloc:
            raise InvalidConfig(
                "a lake's URL has no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        known = parts.scheme in ("s3", "s3a") and _BUCKET.fullmatch(parts.netloc)
        if not known or parts.query or parts.fragment:
            shown = re.split("[?#]", _without_credentials(url))[0]  # a signed URL has its secret there
            raise InvalidConfig(
                f"{shown!r} is not a place for a lake: name s3://BUCKET/FOLDER, nothing behind it"
            )
        self._bucket, folder = parts.netloc, parts.path.strip("/")
        self._prefix = f"{folder}/" if folder else ""
        self.url = f"s3://{self._bucket}/{folder}".rstrip("/")
        with self._one_sentence():
            session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
            self._client = session.client("s3", config=_CONFIG)

    def read(self, name: str, most: int = _MOST_READ) -> Read | None:
        """None: there is no such object. Raises `InvalidData`: it has more bytes than `most`."""
        with self._one_sentence():
            try:
                found = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            content = found["Body"].read(most + 1)
            if len(content) > most:
                found["Body"].close()
                raise InvalidData(f"{self.url}/{name} has more than {most:,} bytes")
            found["Body"].read(1)  # the SDK sees at the end whether it has all
            return Read(content, found["ETag"])

    def replace(self, name: str, content: bytes, version: str | None) -> bool:
        """Write an object if it still has the version that `read` told; None: if there is none. False: it has not."""
        condition = {"IfNoneMatch": "*"} if version is None else {"IfMatch": version}
        with self._one_sentence():
            try:
                self._client.put_object(
                    Bucket=self._bucket, Key=self._prefix + name, Body=content, **condition
                )
            except ClientError as error:
                if _code(error) in _OVERTAKEN | _MISSING:  # missing: deleted since it was read
                    return False
                raise
        return True

    def upload(self, name: str, path: Path) -> None:
        """Write a file of any size; the object appears whole."""
        with self._one_sentence(), path.open("rb") as file:
            self._client.upload_fileobj(file, self._bucket, self._prefix + name, Config=_TRANSFER)

    def download(self, name: str, path: Path, size: int | None = None) -> bool:
        """False: there is no such object. Raises `InvalidData`: it has not the `size`; nothing is downloaded then."""
        with self._one_sentence():
            try:
                if size is not None:
                    self._check_size(name, size)
                self._client.download_file(self._bucket, self._prefix + name, str(path), Config=_TRANSFER)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return False
                raise
        return True

    def _check_size(self, name: str, size: int) -> None:
        there = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)["ContentLength"]
        if there != size:
            raise InvalidData(
                f"{self.url}/{name} has another content than was pushed ({there:,} bytes, not {size:,}): delete it; the"
                " next push of a machine that has the lake uploads it again"
            )

    def sizes(self) -> dict[str, int]:
        """Every object's name and size."""
        with self._one_sentence():
            pages = self._client.get_paginator("list_objects_v2")
            return {
                entry["Key"].removeprefix(self._prefix): entry["Size"]
                for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix)
                for entry in page.get("Contents", ())
            }

    def delete(self, names: Sequence[str]) -> None:
        """Those that are not there are no error."""
        for start in range(0, len(names), _MOST_DELETED):
            keys = [{"Key": self._prefix + name} for name in names[start : start + _MOST_DELETED]]
            with self._one_sentence():
                done = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True}
                )
            if failed := done.get("Errors"):
                raise self._answer(str(failed[0].get("Code")))

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        """The SDK's errors as ours, without what they quote of the request."""
        try:
            yield
        except ClientError as error:
            raise self._answer(_code(error)) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise InvalidConfig(
                f"{self.url}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give"
                " this machine a role"
            ) from error
        except (
            botocore.exceptions.ConnectionError,
            HTTPClientError,
            IncompleteReadError,
            RetriesExceededError,
        ) as error:
            raise Unavailable(f"{self.url} cannot be reached: {type(error).__name__}") from error
        except (BotoCoreError, ValueError) as error:
            sentence = " ".join(str(error).split())
            raise InvalidConfig(f"{self.url}: {_without_credentials(sentence)}") from error

    def _answer(self, code: str) -> RecsysError:
        if code == "NoSuchBucket":
            return InvalidConfig(f"{self.url}: there is no bucket {self._bucket!r}; create it first")
        if code in _REFUSED:
            return AccessRefused(f"{self.url}: the store refuses these credentials ({code}); check them")
        if code in _UNKNOWN:
            return InvalidConfig(
                f"{self.url}: the store answers {code}: it lacks a part of S3's interface that a lake needs"
            )
        return Unavailable(f"{self.url}: the store answers {code}")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _without_credentials(text: str) -> str:
    """
    >>> _without_credentials("Invalid endpoint: https://user:secret@host")
    'Invalid endpoint: ***@host'
    """
    return _CREDENTIALS.sub("***@", text)
