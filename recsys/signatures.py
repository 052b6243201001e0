"""Ed25519 signatures of bundles: who may publish what serving loads.

Private keys are PEM files (PKCS 8, not encrypted). Public keys are lines as in OpenSSH's authorized_keys,
`ssh-ed25519 AAAA… comment`; a file may have several, so that a key can be changed without a moment without one.
"""

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_ssh_public_key,
)

from recsys.contracts.errors import InvalidConfig
from recsys.files import staged_file
from recsys.operator_files import read_bytes, read_text

PublicKeys = Sequence[Ed25519PublicKey]
_OWNER_ONLY = 0o600


def new_key(path: Path, comment: str) -> str:
    """Write a new private key for its owner only; returns the line of its public key.
    Raises `InvalidConfig`: the file exists, or cannot be written."""
    if path.exists():
        raise InvalidConfig(f"{path} exists already; a key is never replaced, choose another file")
    key = Ed25519PrivateKey.generate()
    try:
        with staged_file(path) as temporary:
            temporary.touch(mode=_OWNER_ONLY)
            temporary.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except OSError as error:
        raise InvalidConfig(f"{path}: {error.strerror}") from error
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return f"{public} {comment}"


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """Raises `InvalidConfig`: the file has no Ed25519 key."""
    try:
        key = load_pem_private_key(read_bytes(path, InvalidConfig), password=None)
    except (FileNotFoundError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidConfig(f"{path}: no private Ed25519 key; make one with `recsys bundle keygen`")
    return key


def read_public_keys(path: Path | None) -> PublicKeys:
    """The keys of the file; none without a file, and then no signature is needed.
    Raises `InvalidConfig`: a line is no key, or there is none: then nothing could be loaded."""
    if path is None:
        return ()
    try:
        lines = read_text(path, InvalidConfig).splitlines()
    except FileNotFoundError:
        lines = []
    keys = [
        _public_key(line, f"{path}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not keys:
        raise InvalidConfig(f"{path}: no key; add the line that `recsys bundle keygen` printed")
    return keys


def sign(key: Ed25519PrivateKey, content: bytes) -> str:
    """The signature as text."""
    return base64.b64encode(key.sign(content)).decode()


def is_signed(keys: PublicKeys, content: bytes, signature: str) -> bool:
    """Whether one of the keys made the signature of this content."""
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except (binascii.Error, ValueError):
        return False
    return any(_verifies(key, raw, content) for key in keys)


def _verifies(key: Ed25519PublicKey, raw: bytes, content: bytes) -> bool:
    try:
        key.verify(raw, content)
    except InvalidSignature:
        return False
    return True


def _public_key(line: str, where: str) -> Ed25519PublicKey:
    try:
        key = load_ssh_public_key(line.strip().encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidConfig(f"{where}: not a line `ssh-ed25519 AAAA… comment` of `recsys bundle keygen`")
    return key
