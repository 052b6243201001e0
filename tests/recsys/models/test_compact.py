import pytest
import torch
from torch import nn

from recsys.models.compact import (
    HalfTable,
    HashedTable,
    QuantizedTable,
    QuantizedTable4,
    quantize_tables,
)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all weights and buffers, as a file holds them."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def weights() -> torch.Tensor:
    torch.manual_seed(0)
    table = torch.randn(300, 16) * torch.logspace(-4, 2, 300).unsqueeze(1)
    table[7] = 0.0
    return table


@pytest.mark.parametrize(("kind", "levels"), [(QuantizedTable, 127), (QuantizedTable4, 7)])
def test_error_is_at_most_half_a_step_of_the_row(kind: type[QuantizedTable], levels: int) -> None:
    table = weights()
    found = kind(table)(torch.arange(300))
    step = table.abs().amax(1, keepdim=True) / levels
    assert ((found - table).abs() <= step * 0.5001 + 1e-12).all()
    assert (found[7] == 0).all()


def test_half_precision_rows_are_accurate_to_three_digits() -> None:
    table = weights()
    found = HalfTable(table)(torch.arange(300))
    torch.testing.assert_close(found, table, rtol=2**-11, atol=1e-7)
    assert stored_bytes(HalfTable(table)) == stored_bytes(nn.Embedding(300, 16)) / 2


def test_int4_needs_an_even_width() -> None:
    with pytest.raises(ValueError, match="odd"):
        QuantizedTable4(torch.zeros(4, 3))


def test_rows_take_an_eighth_or_a_quarter() -> None:
    full = stored_bytes(nn.Embedding(10_000, 32))
    assert stored_bytes(QuantizedTable(torch.randn(10_000, 32))) == full / 4 + 40_000  # and one scale per row
    assert stored_bytes(QuantizedTable4(torch.randn(10_000, 32))) == full / 8 + 40_000


def test_only_large_tables_are_quantized() -> None:
    model = nn.ModuleDict({"large": nn.Embedding(300, 4), "small": nn.Embedding(10, 4)})
    quantize_tables(model, 8)
    assert isinstance(model["large"], QuantizedTable)
    assert isinstance(model["small"], nn.Embedding)
    with pytest.raises(ValueError, match="8 or 4"):
        quantize_tables(model, 2)


def test_hashed_items_have_distinct_vectors() -> None:
    torch.manual_seed(0)
    table = HashedTable(buckets=1_000, width=4)
    vectors = table(torch.arange(20_000))
    # 20 items per bucket, but few share both buckets
    assert len(torch.unique((vectors * 1e6).round().long(), dim=0)) > 19_500
    assert torch.equal(vectors[0], 2 * table.rows.weight[0])
    shaped = table(torch.tensor([[1, 2], [0, 10**6]]))
    assert shaped.shape == (2, 2, 4)
