"""A client of one secure sum (Bonawitz et al. 2017, "Practical Secure Aggregation"), in the protocol's four rounds.

A client's vector is sent under two kinds of masks. Each pair of clients agrees on a mask that one adds and the other
subtracts, so these vanish from the sum. A mask of its own protects the vector of a client that was only late: the
server, which then knows the pairwise masks of the presumed dropout, still lacks this one. Both secrets are shared among
all clients, and a client reveals of each other client one or the other, never both.
"""

import secrets
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from training.federated.masks import KEY_BYTES, agreed_key, mask, public_bytes
from training.federated.quantize import MOST_CLIENTS, to_words
from training.federated.shamir import SHARE_BYTES, split

_NONCE = bytes(12)  # each message has a key of its own
SEALED_BYTES = 2 * SHARE_BYTES + 16  # two shares and Poly1305's tag


@dataclass(frozen=True)
class SumPlan:
    """What all clients of one sum know. `name`: of this sum, never used twice. `length`: of the vectors."""

    name: str
    clients: int
    length: int

    def __post_init__(self) -> None:
        if self.clients > MOST_CLIENTS:
            raise InvalidConfig(f"clients: {self.clients}; the sum of more than {MOST_CLIENTS} can overflow")

    @property
    def threshold(self) -> int:
        """Clients that must stay: over two thirds. A server with fewer than a third of the clients on its side can then
        not ask one part for a client's self mask and the other part for its masking key (Bonawitz et al. 2017, section
        6.2). Every device works it out for itself."""
        return 2 * self.clients // 3 + 1

    def enough(self, answered: int, step: str) -> None:
        """
        Raises:
            Unavailable: fewer than the threshold have answered.
        """
        if answered < self.threshold:
            raise Unavailable(
                f"secure sum {self.name} is abandoned: {answered} of {self.clients} clients {step},"
                f" {self.threshold} are needed; start another round"
            )


class PublicKeys(NamedTuple):
    """sealing: of the messages between clients. masking: of the pairwise masks."""

    sealing: bytes
    masking: bytes


class Revealed(NamedTuple):
    """A client's shares, by whose secret they are a part of."""

    self_masks: Mapping[int, int]
    masking_keys: Mapping[int, int]


class SumClient:
    """One client. Its private keys and its vector never leave it in the clear."""

    def __init__(
        self,
        number: int,
        plan: SumPlan,
        smallest: int,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """
        Args:
            number: from 1 on.
            plan: what the server proposes.
            smallest: clients of a group, at least, by the device's own configuration.
            random: gives n bytes, from a secure source but in tests.

        Raises:
            InvalidData: the plan is for a smaller group.
        """
        if plan.clients < smallest:
            raise InvalidData(
                f"{plan.name}: a sum of {plan.clients} clients is refused, {smallest} are needed; raise the server's"
                " cohorts.group"
            )
        self.number, self._plan, self._random = number, plan, random
        self._sealing = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
        self._masking = X25519PrivateKey.from_private_bytes(random(KEY_BYTES))
        self._self_mask = random(KEY_BYTES)
        self._roster: Mapping[int, PublicKeys] = {}
        self._shares: dict[int, tuple[int, int]] = {}  # of other clients' secrets, and of its own
        self._has_revealed = False

    def public_keys(self) -> PublicKeys:
        """Round 0."""
        return PublicKeys(public_bytes(self._sealing), public_bytes(self._masking))

    def sealed_shares(self, roster: Mapping[int, PublicKeys]) -> dict[int, bytes]:
        """Round 1: for each other client its shares of both secrets, which only that client can read.

        Raises:
            InvalidData: the roster lacks this client, has a key twice or one that cannot be used, has a client that is
                not of the plan, or was given before.
            Unavailable: it has too few clients.
        """
        keys = [key for pair in roster.values() for key in pair]
        if self._roster or roster.get(self.number) != self.public_keys() or len({*keys}) < len(keys):
            raise InvalidData(f"{self._plan.name}: a roster with other keys is refused; start another round")
        if not roster.keys() <= set(range(1, self._plan.clients + 1)):
            raise InvalidData(
                f"{self._plan.name}: a roster with other numbers than 1 to {self._plan.clients} is refused; start"
                " another round"
            )
        self._plan.enough(len(roster), "gave keys")
        self._roster = dict(roster)
        masks = split(self._self_mask, roster, self._plan.threshold, self._below)
        keys_shares = split(self._masking.private_bytes_raw(), roster, self._plan.threshold, self._below)
        self._shares[self.number] = masks[self.number], keys_shares[self.number]
        return {
            other: self._seal(self.number, other).encrypt(
                _NONCE, _packed(masks[other], keys_shares[other]), None
            )
            for other in roster
            if other != self.number
        }

    def masked(self, vector: NDArray[np.integer], received: Mapping[int, bytes]) -> NDArray[np.uint16]:
        """Round 2: the vector (length,) under all masks; `received`: what the others have sealed for this client.

        Raises:
            InvalidData: a message is not of its sender, or the vector was sent before.
            Unavailable: too few clients have shared their secrets.
        """
        if len(self._shares) > 1:
            raise InvalidData(f"{self._plan.name}: a second vector is refused; start another round")
        self._plan.enough(len(received) + 1, "shared their secrets")
        for sender, message in received.items():
            self._shares[sender] = self._opened(sender, message)
        words = to_words(vector) + mask(self._self_mask, self._plan.length)
        for other in received:
            pairwise = mask(self._pairwise_key(other), self._plan.length)
            words = words + pairwise if self.number < other else words - pairwise
        return words

    def reveal(self, self_masks_of: Set[int], masking_keys_of: Set[int]) -> Revealed:
        """Round 3: shares of the self masks of the clients whose vectors arrived, of the masking keys of the others.

        Raises:
            InvalidData: both are asked for of one client, of which the server could then read the vector; not every
                client is asked for; or it is the second question.
            Unavailable: too few vectors have arrived.
        """
        both = self_masks_of & masking_keys_of
        if both:
            raise InvalidData(
                f"{self._plan.name}: refused, both secrets of the clients {sorted(both)} are asked for"
            )
        if self._has_revealed or self_masks_of | masking_keys_of != self._shares.keys():
            raise InvalidData(
                f"{self._plan.name}: a second or another question is refused; start another round"
            )
        self._plan.enough(len(self_masks_of), "sent their vectors")
        self._has_revealed = True
        return Revealed(
            {client: self._shares[client][0] for client in self_masks_of},
            {client: self._shares[client][1] for client in masking_keys_of},
        )

    def _pairwise_key(self, other: int) -> bytes:
        return pairwise_key(self._masking, self.number, self._roster[other].masking, other, self._plan)

    def _seal(self, sender: int, receiver: int) -> ChaCha20Poly1305:
        other = self._roster[receiver if sender == self.number else sender]
        purpose = f"recsys secure sum {self._plan.name} seal {sender} {receiver}"
        return ChaCha20Poly1305(agreed_key(self._sealing, other.sealing, purpose))

    def _opened(self, sender: int, message: bytes) -> tuple[int, int]:
        try:
            plain = self._seal(sender, self.number).decrypt(_NONCE, message, None)
        except (InvalidTag, KeyError):
            raise InvalidData(
                f"{self._plan.name}: a message that client {sender} did not seal; start another round"
            ) from None
        return int.from_bytes(plain[:SHARE_BYTES]), int.from_bytes(plain[SHARE_BYTES:])

    def _below(self, bound: int) -> int:
        """Even from 0 to `bound`: 16 bytes more than needed leave a bias below 2^-127."""
        return int.from_bytes(self._random(SHARE_BYTES + 16)) % bound


def pairwise_key(own: X25519PrivateKey, number: int, other_key: bytes, other: int, plan: SumPlan) -> bytes:
    """Of the mask of two clients; either private key gives it."""
    low, high = sorted((number, other))
    return agreed_key(own, other_key, f"recsys secure sum {plan.name} mask {low} {high}")


def _packed(self_mask: int, masking_key: int) -> bytes:
    return self_mask.to_bytes(SHARE_BYTES) + masking_key.to_bytes(SHARE_BYTES)
