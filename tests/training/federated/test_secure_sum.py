"""The secure sum: it equals the plain one bit for bit, and nothing that the server holds tells of one client."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from recsys.contracts.errors import InvalidConfig, InvalidData, Unavailable
from training.federated import secure_client
from training.federated.masks import mask
from training.federated.quantize import LEVELS, MOST_CLIENTS, from_words, to_words
from training.federated.secure_client import PublicKeys, Revealed, SumClient, SumPlan
from training.federated.secure_round import Step, secure_sum
from training.federated.secure_server import Question, SumServer
from training.federated.shamir import PRIME, combine


def seeded(seed: int) -> Callable[[int], bytes]:
    """Bytes that follow from a seed, for tests only."""
    rng = np.random.default_rng(seed)
    return lambda n: rng.bytes(n)


def vectors_of(clients: int, length: int, seed: int) -> list[NDArray[np.int8]]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(-LEVELS, LEVELS + 1, (clients, length)).astype(np.int8))


@st.composite
def sums(draw: st.DrawFn) -> tuple[list[NDArray[np.int8]], SumPlan, dict[int, Step]]:
    plan = SumPlan("s", draw(st.integers(2, 9)), draw(st.integers(1, 40)))
    most = plan.clients - plan.threshold
    lost = draw(st.lists(st.integers(1, plan.clients), unique=True, max_size=most))
    dropouts = {client: draw(st.sampled_from(Step)) for client in lost}
    return vectors_of(plan.clients, plan.length, draw(st.integers(0, 99))), plan, dropouts


@settings(max_examples=25, deadline=None)
@given(sums())
def test_the_masked_sum_is_the_plain_sum(
    drawn: tuple[list[NDArray[np.int8]], SumPlan, dict[int, Step]],
) -> None:
    vectors, plan, dropouts = drawn
    found = secure_sum(vectors, plan, plan.clients, dropouts)
    arrived = {n for n in range(1, plan.clients + 1) if dropouts.get(n, Step.ANSWER) == Step.ANSWER}
    assert found.counted == arrived
    np.testing.assert_array_equal(found.total, sum(vectors[n - 1].astype(np.int64) for n in arrived))


@pytest.mark.parametrize("step", Step)
def test_below_the_threshold_the_round_is_abandoned(step: Step) -> None:
    plan = SumPlan("7/3", 5, 2)
    with pytest.raises(
        Unavailable, match="7/3 is abandoned: 3 of 5 clients .* 4 are needed; start another round"
    ):
        secure_sum(vectors_of(5, 2, 0), plan, 5, {1: step, 2: step})


def test_a_sum_cannot_overflow() -> None:
    extreme = [np.full(3, -LEVELS, np.int64)] * MOST_CLIENTS
    np.testing.assert_array_equal(from_words(to_words(np.sum(extreme, axis=0))), [-LEVELS * MOST_CLIENTS] * 3)
    with pytest.raises(InvalidConfig, match="can overflow"):
        SumPlan("s", MOST_CLIENTS + 1, 1)


def test_masks_are_the_stream_of_rfc_8439() -> None:
    """The first test vector of its appendix A.1: key, nonce and counter 0."""
    stream = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert mask(bytes(32), 16).astype("<u2").tobytes().hex() == stream


class Exchange:
    """A sum up to the masked vectors, whose messages the tests can see and change."""

    def __init__(self, vectors: list[NDArray[np.int8]], seed: int = 0) -> None:
        self.plan = SumPlan("s", len(vectors), len(vectors[0]))
        random = seeded(seed)
        self.clients = {n: SumClient(n, self.plan, len(vectors), random) for n in range(1, len(vectors) + 1)}
        self.server = SumServer(self.plan)
        self.roster = self.server.roster({n: c.public_keys() for n, c in self.clients.items()})
        self.sealed = {n: c.sealed_shares(self.roster) for n, c in self.clients.items()}
        self.relayed = self.server.relayed(self.sealed)
        self.masked = {n: c.masked(vectors[n - 1], self.relayed[n]) for n, c in self.clients.items()}


def test_two_updates_give_the_server_the_same_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Move d from client 2 to client 1, and let the mask of this pair, a uniform word that the server never learns, be
    smaller by d: every message is the same to the bit. So for each view every update is as likely as any other with
    the same sum."""
    vectors, d = vectors_of(3, 50, 1), np.arange(-25, 25, dtype=np.int16)
    moved = [(vectors[0] + d).astype(np.int16), (vectors[1] - d).astype(np.int16), vectors[2]]
    before = Exchange(vectors)
    pair: list[bytes] = []
    derive = secure_client.pairwise_key

    def recorded(own: object, number: int, other_key: bytes, other: int, plan: SumPlan) -> bytes:
        key = derive(own, number, other_key, other, plan)  # type: ignore[arg-type]
        if {number, other} == {1, 2}:
            pair.append(key)
        return key

    monkeypatch.setattr(secure_client, "pairwise_key", recorded)
    monkeypatch.setattr(
        secure_client, "mask", lambda key, n: mask(key, n) - (to_words(d) if key in pair else np.uint16(0))
    )
    after = Exchange(moved)  # type: ignore[arg-type]
    assert len(pair) == 2, "both sides of the pair have used another mask"
    assert (before.roster, before.sealed) == (after.roster, after.sealed)
    for client in before.clients:
        np.testing.assert_array_equal(before.masked[client], after.masked[client])


@pytest.mark.parametrize("value", [0, LEVELS])
def test_what_a_client_sends_is_uniform_whatever_her_update(value: int) -> None:
    """Chi-squared of the words' high bytes and low bytes, 255 degrees of freedom: 5 deviations are 368."""
    sent = Exchange([np.full(20_000, value, np.int8)] * 3).masked[1]
    for part in (sent >> 8, sent & 0xFF):
        counts = np.bincount(part, minlength=256)
        expected = len(sent) / 256
        assert ((counts - expected) ** 2 / expected).sum() < 368
    assert abs(np.corrcoef(sent[:-1].astype(float), sent[1:].astype(float))[0, 1]) < 5 / len(sent) ** 0.5


def test_a_client_that_was_only_late_stays_hidden() -> None:
    """The server takes client 1 for a dropout, learns her masking key, and gets her vector afterwards."""
    vectors = vectors_of(4, 40, 2)
    exchange = Exchange(vectors)
    late = exchange.masked.pop(1)
    question = exchange.server.question(exchange.masked)
    assert question.masking_keys_of == {1}
    total = exchange.server.total({n: exchange.clients[n].reveal(*question) for n in (2, 3, 4)})
    np.testing.assert_array_equal(total, np.sum(vectors[1:], axis=0, dtype=np.int64))
    key = exchange.clients[1]._masking.private_bytes_raw()
    without_pairwise = late - exchange.server._without_dropout(np.zeros(40, np.uint16), 1, key)
    own = from_words(without_pairwise - mask(exchange.clients[1]._self_mask, 40))
    np.testing.assert_array_equal(own, vectors[0])  # her own mask alone was left
    assert (from_words(without_pairwise) != vectors[0]).mean() > 0.9


def test_both_secrets_of_a_client_are_refused() -> None:
    client = Exchange(vectors_of(4, 4, 3)).clients[2]
    with pytest.raises(InvalidData, match=r"refused, both secrets of the clients \[1\]"):
        client.reveal(frozenset({1, 2, 3, 4}), frozenset({1}))
    client.reveal(frozenset({2, 3, 4}), frozenset({1}))
    with pytest.raises(InvalidData, match="second or another question"):
        client.reveal(frozenset({1, 2, 3, 4}), frozenset())


@pytest.mark.parametrize("clients", [6, 7, 9])
def test_a_split_question_gives_no_client_away(clients: int) -> None:
    """A third of the clients help the server. It asks half of the others for client 1's self mask, the rest for her
    masking key, and adds her shares of both that its helpers hold."""
    exchange, threshold = Exchange(vectors_of(clients, 4, 7)), SumPlan("s", clients, 4).threshold
    everybody, victim = frozenset(exchange.clients), exchange.clients[1]
    honest, helpers = range(1, clients - clients // 3 + 1), range(clients - clients // 3 + 1, clients + 1)
    self_masks, keys = ({n: exchange.clients[n]._shares[1][part] for n in helpers} for part in (0, 1))
    for n in honest:
        if n <= len(honest) // 2:
            self_masks[n] = exchange.clients[n].reveal(everybody, frozenset()).self_masks[1]
        else:
            keys[n] = exchange.clients[n].reveal(everybody - {1}, frozenset({1})).masking_keys[1]
    found = combine(self_masks) == victim._self_mask, combine(keys) == victim._masking.private_bytes_raw()
    assert not all(found)
    assert max(len(self_masks), len(keys)) == threshold - (clients % 3 == 0)


def test_what_the_server_says_of_the_group_is_checked() -> None:
    with pytest.raises(InvalidData, match="a sum of 1 clients is refused, 8 are needed"):
        SumClient(1, SumPlan("s", 1, 4), 8)
    with pytest.raises(InvalidData, match="a sum of 7 clients is refused"):
        SumClient(1, SumPlan("s", 7, 4), 8)
    assert [SumPlan("s", n, 4).threshold for n in (2, 3, 6, 31, 32, 33)] == [2, 3, 5, 21, 22, 23]


@pytest.mark.parametrize("number", [0, 4, PRIME, PRIME + 1, -1])
def test_a_roster_with_other_numbers_is_refused(number: int) -> None:
    """The share of client 0 would be the secret; one client more could be a second share of the server's."""
    clients = {n: SumClient(n, SumPlan("s", 3, 4), 3) for n in (1, 2, 3)}
    roster = {n: client.public_keys() for n, client in clients.items()}
    for other in (
        {**roster, number: PublicKeys(b"a", b"b")},
        {1: roster[1], 2: roster[2], number: roster[3]},
    ):
        with pytest.raises(InvalidData, match="other numbers than 1 to 3"):
            clients[2].sealed_shares(other)


def test_a_question_about_fewer_clients_than_shared_is_refused() -> None:
    client = Exchange(vectors_of(3, 4, 3)).clients[2]
    with pytest.raises(InvalidData, match="second or another question"):
        client.reveal(frozenset({1, 2}), frozenset())
    with pytest.raises(Unavailable, match="1 of 3 clients sent their vectors"):
        client.reveal(frozenset({2}), frozenset({1, 3}))


def test_altered_messages_are_refused() -> None:
    exchange = Exchange(vectors_of(3, 4, 4))
    fresh = SumClient(3, exchange.plan, 3)
    with pytest.raises(InvalidData, match="roster with other keys"):
        fresh.sealed_shares(exchange.roster)  # of another client 3
    fresh.sealed_shares({**exchange.roster, 3: fresh.public_keys()})
    with pytest.raises(InvalidData, match="client 1 did not seal"):
        fresh.masked(np.zeros(4, np.int8), exchange.relayed[3])  # sealed for another key
    with pytest.raises(InvalidData, match="second vector"):
        exchange.clients[1].masked(np.zeros(4, np.int8), exchange.relayed[1])


def test_wrong_shares_of_a_key_are_noticed() -> None:
    exchange = Exchange(vectors_of(6, 4, 5))
    del exchange.masked[1]
    question = exchange.server.question(exchange.masked)
    revealed = {n: exchange.clients[n].reveal(*question) for n in exchange.masked}
    revealed[2] = Revealed(revealed[2].self_masks, {1: revealed[2].masking_keys[1] ^ 1})
    with pytest.raises(InvalidData, match="start another round"):
        exchange.server.total(revealed)


@pytest.mark.parametrize("key", [bytes(32), (1).to_bytes(32, "little"), b"short"])
def test_a_key_that_cannot_be_used_is_refused(key: bytes) -> None:
    """Of low order (RFC 7748, section 6.1), or no key."""
    client = SumClient(1, SumPlan("s", 2, 4), 2)
    with pytest.raises(InvalidData, match="cannot be used"):
        client.sealed_shares({1: client.public_keys(), 2: PublicKeys(key, b"another")})


def test_messages_of_another_form_are_dropouts() -> None:
    """Of 19 clients 13 must stay; six send a short key, too few messages or a short one, a short vector or one of
    another type, and half an answer. Who is not of the group is not heard."""
    vectors, plan = vectors_of(19, 4, 8), SumPlan("s", 19, 4)
    clients = {n: SumClient(n, plan, 19) for n in range(1, 20)}
    server = SumServer(plan)
    keys = {n: client.public_keys() for n, client in clients.items()}
    roster = server.roster({**keys, 19: PublicKeys(b"short", b"short"), 20: keys[19]})
    assert roster.keys() == set(range(1, 19))
    sealed = {n: clients[n].sealed_shares(roster) for n in roster}
    del sealed[18][1]
    sealed[17][1] = b"short"
    relayed = server.relayed(sealed)
    masked = {n: clients[n].masked(vectors[n - 1], relayed[n]) for n in relayed}
    masked |= {16: masked[16][1:], 15: masked[15].astype(np.uint32), 19: masked[1]}
    question = server.question(masked)
    assert question == Question(frozenset(range(1, 15)), frozenset({15, 16}))
    revealed = {n: clients[n].reveal(*question) for n in question.self_masks_of}
    revealed[1] = Revealed({}, revealed[1].masking_keys)
    total = server.total({99: revealed[2], **revealed})
    np.testing.assert_array_equal(total, np.sum(vectors[:14], axis=0, dtype=np.int64))
    with pytest.raises(Unavailable, match="12 of 19 clients answered"):
        server.total({n: answer for n, answer in revealed.items() if n > 2})


def test_traffic_is_what_was_sent() -> None:
    """Up: two keys, two sealed messages of 82 bytes, 100 words, three shares; two bytes with each say whose it is."""
    traffic = secure_sum(vectors_of(3, 100, 6), SumPlan("s", 3, 100), 3).traffic
    assert traffic.up == 64 + 2 * (2 + 82) + 200 + 3 * (2 + 33)
    assert traffic.down == 3 * (2 + 64) + 2 * (2 + 82) + 3 * 2
