"""The server of a secure sum: it relays sealed messages and learns the sum; of a client, that it took part."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidData
from training.federated.masks import mask, public_bytes
from training.federated.quantize import WORD, from_words
from training.federated.secure_client import PublicKeys, Revealed, SumPlan, pairwise_key
from training.federated.shamir import combine


class Question(NamedTuple):
    """Round 3: of which clients the self masks and of which the masking keys are needed."""

    self_masks_of: frozenset[int]
    masking_keys_of: frozenset[int]


class SumServer:
    """One sum. Each method takes what the clients of a round have sent, by client; who is missing has dropped out."""

    def __init__(self, plan: SumPlan) -> None:
        self._plan = plan
        self._roster: Mapping[int, PublicKeys] = {}
        self._sharing: frozenset[int] = frozenset()
        self._sum = np.zeros(plan.length, WORD)
        self._arrived: frozenset[int] = frozenset()

    def roster(self, keys: Mapping[int, PublicKeys]) -> Mapping[int, PublicKeys]:
        """Round 0: what every client gets. Raises `Unavailable`, as all methods do: too few clients are left."""
        self._plan.enough(len(keys), "gave keys")
        self._roster = dict(keys)
        return self._roster

    def relayed(self, sealed: Mapping[int, Mapping[int, bytes]]) -> dict[int, dict[int, bytes]]:
        """Round 1: sender → receiver → message becomes receiver → sender → message."""
        self._plan.enough(len(sealed), "shared their secrets")
        self._sharing = frozenset(sealed)
        return {
            receiver: {
                sender: messages[receiver] for sender, messages in sealed.items() if sender != receiver
            }
            for receiver in sealed
        }

    def question(self, masked: Mapping[int, NDArray[np.uint16]]) -> Question:
        """Round 2: adds up the vectors."""
        self._plan.enough(len(masked), "sent their vectors")
        self._arrived = frozenset(masked)
        for words in masked.values():
            self._sum = self._sum + words
        return Question(self._arrived, self._sharing - self._arrived)

    def total(self, revealed: Mapping[int, Revealed]) -> NDArray[np.int64]:
        """Round 3: the sum of the vectors that arrived, (length,).

        Raises:
            InvalidData: the shares of a masking key give another key than its client's.
        """
        self._plan.enough(len(revealed), "answered the last question")
        answers = list(revealed.items())[: self._plan.threshold]
        words = self._sum
        for client in self._arrived:
            seed = combine({holder: answer.self_masks[client] for holder, answer in answers})
            words = words - mask(seed, self._plan.length)
        for client in self._sharing - self._arrived:
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
