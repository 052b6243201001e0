"""Masks of a secure sum: keys that two clients agree on, and the words that follow from a key."""

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from training.federated.quantize import WORD

KEY_BYTES = 32


def public_bytes(key: X25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def agreed_key(own: X25519PrivateKey, other: bytes, purpose: str) -> bytes:
    """32 bytes that both sides derive for one purpose from their private and the other's public key (X25519, HKDF).

    Raises:
        InvalidData: the other's key is none, or of low order, with which any private key gives the same.
    """
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise InvalidData(f"a public key that cannot be used ({error}); start another round") from error
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose.encode()).derive(shared)


def mask(key: bytes, length: int) -> NDArray[np.uint16]:
    """`length` words of ChaCha20's stream (RFC 8439, nonce and counter 0); a key is used for one mask only."""
    stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(length * WORD().itemsize)), "<u2").astype(WORD)
