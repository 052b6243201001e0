"""The server of a secure sum: it relays sealed messages and learns the sum; of a client, that it took part."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from training.federated.masks import KEY_BYTES, mask, public_bytes
from training.federated.quantize import WORD, from_words
from training.federated.secure_client import SEALED_BYTES, PublicKeys, Revealed, SumPlan, pairwise_key
from training.federated.shamir import combine


class Question(NamedTuple):
    """Round 3: of which clients the self masks and of which the masking keys are needed."""

    self_masks_of: frozenset[int]
    masking_keys_of: frozenset[int]


class SumServer:
    """One sum. Each method takes what the clients of a round have sent, by client; who is missing, or has sent what is
    no message of the protocol, has dropped out."""

    def __init__(self, plan: SumPlan) -> None:
        self._plan = plan
        self._roster: Mapping[int, PublicKeys] = {}
        self._sharing: frozenset[int] = frozenset()
        self._sum = np.zeros(plan.length, WORD)
        self._arrived: frozenset[int] = frozenset()

    def roster(self, keys: Mapping[int, PublicKeys]) -> Mapping[int, PublicKeys]:
        """Round 0: what every client gets. Raises `Unavailable`, as all methods do: too few clients are left."""
        numbers = range(1, self._plan.clients + 1)
        self._roster = {n: pair for n, pair in keys.items() if n in numbers and _sizes(pair) == {KEY_BYTES}}
        self._plan.enough(len(self._roster), "gave keys")
        return self._roster

    def relayed(self, sealed: Mapping[int, Mapping[int, bytes]]) -> dict[int, dict[int, bytes]]:
        """Round 1: sender → receiver → message becomes receiver → sender → message."""
        whole = {
            sender: messages
            for sender, messages in sealed.items()
            if {sender, *messages} == self._roster.keys() and _sizes(messages.values()) == {SEALED_BYTES}
        }
        self._plan.enough(len(whole), "shared their secrets")
        self._sharing = frozenset(whole)
        return {
            receiver: {sender: messages[receiver] for sender, messages in whole.items() if sender != receiver}
            for receiver in whole
        }

    def question(self, masked: Mapping[int, NDArray[np.uint16]]) -> Question:
        """Round 2: adds up the vectors."""
        shape = (self._plan.length,)
        self._arrived = frozenset(
            n for n in self._sharing & masked.keys() if masked[n].shape == shape and masked[n].dtype == WORD
        )
        self._plan.enough(len(self._arrived), "sent their vectors")
        for client in self._arrived:
            self._sum = self._sum + masked[client]
        return Question(self._arrived, self._sharing - self._arrived)

    def total(self, revealed: Mapping[int, Revealed]) -> NDArray[np.int64]:
        """Round 3: the sum of the vectors that arrived, (length,).

        Raises:
            InvalidData: shares give no secret, or another masking key than its client's.
        """
        lost = self._sharing - self._arrived
        answers = [
            (holder, answer)
            for holder, answer in revealed.items()
            if holder in self._sharing
            and answer.self_masks.keys() == self._arrived
            and answer.masking_keys.keys() == lost
        ]
        self._plan.enough(len(answers), "answered the last question")
        answers = answers[: self._plan.threshold]
        words = self._sum
        for client in self._arrived:
            seed = combine({holder: answer.self_masks[client] for holder, answer in answers})
            words = words - mask(seed, self._plan.length)
        for client in lost:
            words = self._without_dropout(
                words, client, combine({holder: answer.masking_keys[client] for holder, answer in answers})
            )
        return from_words(words)

    def _without_dropout(self, words: NDArray[np.uint16], client: int, secret: bytes) -> NDArray[np.uint16]:
        """Take back what the others have added or subtracted for a client whose vector never came."""
        key = X25519PrivateKey.from_private_bytes(secret)
        if public_bytes(key) != self._roster[client].masking:
            raise InvalidData(
                f"{self._plan.name}: wrong shares of client {client}'s key; start another round"
            )
        for other in self._arrived:
            pairwise = mask(
                pairwise_key(key, client, self._roster[other].masking, other, self._plan), self._plan.length
            )
            words = words - pairwise if other < client else words + pairwise
        return words


def _sizes(messages: Iterable[bytes]) -> set[int]:
    return {len(message) for message in messages}
