"""One secure sum from the first message to the last, with dropouts, and what it costs each client in bytes."""

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from training.federated.secure_client import SumClient, SumPlan
from training.federated.secure_server import SumServer
from training.federated.shamir import SHARE_BYTES

_NUMBER_BYTES = 2  # that say whose key, message or share it is


class Step(IntEnum):
    """The message that a client which drops out no longer sends."""

    KEYS = 0
    SHARES = 1
    VECTOR = 2
    ANSWER = 3


@dataclass(frozen=True)
class Traffic:
    """Mean bytes of a client that stays to the end."""

    up: float
    down: float


@dataclass(frozen=True)
class SecureSum:
    """total: (length,) of the vectors of `counted`, the clients whose vectors arrived."""

    total: NDArray[np.int64]
    counted: frozenset[int]
    traffic: Traffic


def secure_sum(
    vectors: Sequence[NDArray[np.integer]],
    plan: SumPlan,
    smallest: int,
    dropouts: Mapping[int, Step] | None = None,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> SecureSum:
    """The sum of clients' vectors; client n, from 1 on, has the n-th.

    Args:
        vectors: (length,) integers each, whose sum fits into 16 bits.
        smallest, random: as of `SumClient`.
        dropouts: the clients that drop out, and when.

    Raises:
        Unavailable: fewer than the threshold are left at some step.
        InvalidData: a client has sent what makes the others refuse, or wrong shares.
    """
    lost = dropouts or {}
    clients = {n: SumClient(n, plan, smallest, random) for n in range(1, len(vectors) + 1)}
    server = SumServer(plan)

    def staying(step: Step) -> dict[int, SumClient]:
        return {n: client for n, client in clients.items() if lost.get(n, Step.ANSWER + 1) > step}

    roster = server.roster({n: c.public_keys() for n, c in staying(Step.KEYS).items()})
    sealed = {n: c.sealed_shares(roster) for n, c in staying(Step.SHARES).items()}
    relayed = server.relayed(sealed)
    masked = {n: c.masked(vectors[n - 1], relayed[n]) for n, c in staying(Step.VECTOR).items()}
    question = server.question(masked)
    revealed = {n: c.reveal(*question) for n, c in staying(Step.ANSWER).items()}
    total = server.total(revealed)

    last = next(iter(revealed))
    keys = sum(len(key) for key in roster[last])
    share = _NUMBER_BYTES + SHARE_BYTES
    up = keys + _bytes(sealed[last].values()) + masked[last].nbytes + share * len(relayed)
    down = (
        (keys + _NUMBER_BYTES) * len(roster) + _bytes(relayed[last].values()) + _NUMBER_BYTES * len(relayed)
    )
    return SecureSum(total, question.self_masks_of, Traffic(up, down))


def _bytes(messages: Iterable[bytes]) -> int:
    return sum(_NUMBER_BYTES + len(message) for message in messages)
