import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.models.blocks import CrossNetwork, Experts, NumericFeatures, numeric_statistics
from recsys.models.encoding import N_GAPS, N_TYPES
from recsys.models.ranker import HEADS, Ranker, RankerConfig, RankerData, RankerLogits, code_of

N_ITEMS, D, L = 20, 5, 6
CODED = 4  # the last column holds codes 0 … 2


def data(bins: int = 4) -> RankerData:
    torch.manual_seed(1)
    mean, scale, edges = numeric_statistics(torch.randn(500, D - 1) * 100, bins)
    codes = torch.cat([torch.zeros(1, 2, dtype=torch.int64), torch.randint(0, 3, (N_ITEMS, 2))])
    return RankerData(N_ITEMS, D, mean, scale, edges, codes, (3, 3), categorical=((CODED, 3),))


def ranker(**changes: object) -> Ranker:
    torch.manual_seed(0)
    config = RankerConfig(width=8, bins=4, expert_layers=(16, 8), cross_rank=4, item_dropout=0.0, dropout=0.0)
    return Ranker(RankerConfig(**{**config.__dict__, **changes}), data()).eval()


def request(n: int, users: int = 1, events: int = 4) -> tuple[Tensor, ...]:
    torch.manual_seed(2)
    history, types, gaps = (torch.zeros(users, L, dtype=torch.int64) for _ in range(3))
    history[:, L - events :] = torch.randint(1, N_ITEMS + 1, (users, events))
    types[:, L - events :] = torch.randint(1, N_TYPES, (users, events))
    gaps[:, L - events :] = torch.randint(1, N_GAPS, (users, events))
    features = torch.cat([torch.randn(n, D - 1) * 100, torch.randint(0, 3, (n, 1)).float()], dim=1)
    return (
        history,
        types,
        gaps,
        torch.randint(0, N_ITEMS + 1, (n,)),
        features,
        torch.zeros(n, dtype=torch.int64),
    )


SHAPES = [
    {"attention": "dot"},
    {"attention": "din"},
    {"attention": "none"},
    {"own_experts": 1},
    {"expert_layers": ()},
    {"cross_layers": 0},
    {"curve_width": 0},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_one_user_broadcast_equals_the_user_repeated(shape: dict[str, object]) -> None:
    model = ranker(**shape)
    history, types, gaps, items, features, position = request(9)
    once = model(history, types, gaps, items, features, position)
    repeated = model(
        history.expand(9, -1), types.expand(9, -1), gaps.expand(9, -1), items, features, position
    )
    for a, b in zip(once, repeated, strict=True):
        assert a.shape == (9,)
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_large_training_batches_give_the_same_result() -> None:
    model = ranker()
    inputs = request(9, users=9)
    assert inputs[0].numel() > N_ITEMS
    expected = model(*inputs)
    model.train()
    for a, b in zip(model(*inputs), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["dot", "din"])
def test_padding_changes_nothing_and_an_empty_history_is_finite(attention: str) -> None:
    model = ranker(attention=attention)
    history, types, gaps, *rest = request(5)
    padded = [torch.cat([torch.zeros(1, 3, dtype=torch.int64), x], dim=1) for x in (history, types, gaps)]
    for a, b in zip(model(history, types, gaps, *rest), model(*padded, *rest), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    nothing = torch.zeros(1, L, dtype=torch.int64)
    assert all(torch.isfinite(x).all() for x in model(nothing, nothing, nothing, *rest))


def test_attention_reads_the_history() -> None:
    model = ranker()
    history, types, gaps, *rest = request(5)
    other = history.clone()
    other[0, -1] = history[0, -1] % N_ITEMS + 1
    assert not torch.allclose(
        model(history, types, gaps, *rest).click, model(other, types, gaps, *rest).click
    )


def test_out_of_vocabulary_items_are_unknown() -> None:
    model = ranker()
    history, types, gaps, items, features, position = request(4)
    unknown = model(history, types, gaps, torch.zeros_like(items), features, position)
    for number in (-3, N_ITEMS + 1, 10**12):
        found = model(history, types, gaps, torch.full_like(items, number), features, position)
        assert all(torch.equal(a, b) for a, b in zip(found, unknown, strict=True))
    late = model(history, types, gaps, items, features, position + 10**6)
    last = model(history, types, gaps, items, features, position + model.config.positions - 1)
    assert all(torch.equal(a, b) for a, b in zip(late, last, strict=True))
    strange = history.clone()
    strange[0, 0] = N_ITEMS + 7  # a history item the model does not know is no event
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model(strange, types, gaps, items, features, position),
            model(history, types, gaps, items, features, position),
            strict=True,
        )
    )


odd_floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(odd_floats, min_size=D, max_size=D))
def test_every_float_has_a_defined_reading(row: list[float]) -> None:
    found = MODEL(*HISTORY, torch.tensor([1]), torch.tensor([row]), torch.tensor([0]))
    assert all(torch.isfinite(x).all() for x in found)


MODEL = ranker()
HISTORY = request(1)[:3]


def test_nan_reads_as_the_training_mean_and_infinity_as_the_clip() -> None:
    mean, scale, edges = numeric_statistics(torch.tensor([[0.0, 7.0], [9.0, 7.0], [99.0, float("nan")]]), 2)
    block = NumericFeatures(mean, scale, edges, width=0)
    z = block(
        torch.tensor([[float("nan"), 1.0], [float("inf"), float("inf")], [float("-inf"), float("nan")]])
    )
    assert z[:, 0].tolist() == [0.0, 6.0, -6.0]
    assert z[:, 1].tolist() == [0.0, 0.0, 0.0]  # constant in training: says nothing
    torch.testing.assert_close(
        block(torch.tensor([[0.0, 7.0], [9.0, 7.0], [99.0, 7.0]]))[:, 0].mean(), torch.tensor(0.0)
    )


def test_numeric_curves_can_follow_a_threshold() -> None:
    """A linear layer on the curves fits a step that no line on the raw value fits."""
    torch.manual_seed(0)
    x = torch.randn(2_000, 1)
    y = (x.abs() < 0.5).float()
    block = NumericFeatures(*numeric_statistics(x, 12), width=2)
    head = torch.nn.Linear(block.dimension, 1)
    optimizer = torch.optim.Adam([*block.parameters(), *head.parameters()], lr=0.05)
    for _ in range(300):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(head(block(x)), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.35  # the base rate's entropy is .66


@pytest.mark.parametrize(
    ("value", "code"), [(0, 0), (2, 2), (3, 0), (-1, 0), (float("nan"), 0), (float("inf"), 0)]
)
def test_codes_outside_the_vocabulary_are_unknown(value: float, code: int) -> None:
    assert code_of(torch.tensor([value]), 3).tolist() == [code]


def test_cross_network_follows_the_published_formula() -> None:
    cross = CrossNetwork(3, layers=1, rank=2)
    x = torch.randn(4, 3)
    down, up = cross.get_parameter("down.0.weight"), cross.get_parameter("up.0.weight")
    torch.testing.assert_close(cross(x), x * (x @ (up @ down).T + cross.get_parameter("up.0.bias")) + x)


def test_experts_of_one_task_do_not_affect_another() -> None:
    torch.manual_seed(0)
    experts = Experts([3, 4], tasks=2, shared=1, own=1, dropout=0.0)
    first, _ = experts(torch.randn(5, 3))
    first.sum().backward()
    own = [[p.grad for p in task.parameters()] for task in experts.own]
    assert all(g is not None for g in own[0])
    assert all(g is None for g in own[1])


def test_logits_are_in_the_order_of_the_heads() -> None:
    assert RankerLogits._fields == tuple(str(head) for head in HEADS)
