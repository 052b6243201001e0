"""The two-tower's structure: causal, padding-proof, and an item without an id has a vector."""

import numpy as np
import pytest
import torch

from recsys.contracts.types import Item
from recsys.models.attributes import SLOTS, attribute_texts, hash_attributes, vectors_from_attributes
from recsys.models.two_tower import ItemTable, ServedUserTower, TwoTower, TwoTowerShape

ITEMS = [
    Item("a", "The Matrix", ("Action", "Sci-Fi"), attributes={"year": "1999"}),
    Item("b", "Heat", ("Action",), creator="Mann"),
    Item("c", "Toy Story", ("Animation",)),
    Item("d"),
]
SHAPE = TwoTowerShape(dim=16, blocks=2, heads=2, hidden=24, max_distance=4, attribute_buckets=512)


def test_titles_of_one_series_share_words_in_every_script() -> None:
    for first, second in (
        ("Toy Story", "Toy Story 2"),
        ("Матрица", "Матрица Перезагрузка"),
        ("ขวัญเรียม", "ขวัญเรียม 2"),
        ("流浪地球", "流浪地球２"),
        ("となりのトトロ", "トトロ"),
        ("올드보이", "올드보이 리마스터"),
    ):
        words = [
            {text for text in attribute_texts(Item("i", title)) if "title" in text}
            for title in (first, second)
        ]
        assert words[0] & words[1], (first, second)
    alone = [*attribute_texts(Item("i", "猫 or 犬 by me"))]
    assert alone == ["title=猫", "title=犬"], "a character is a word; two letters are none"


@pytest.fixture
def model() -> TwoTower:
    torch.manual_seed(0)
    model = TwoTower(SHAPE, ITEMS).eval()
    with torch.no_grad():  # what starts at zero must not hide a mistake
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.items.words.weight[0] = 0
    return model


def inputs(*history: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    numbers = torch.tensor([history])
    return numbers, (numbers > 0).long() * 2, (numbers > 0).long() * 5


def test_later_events_do_not_change_earlier_positions(model: TwoTower) -> None:
    one, other = model(*inputs(1, 2, 3, 4)), model(*inputs(1, 2, 4, 1))
    assert torch.allclose(one[0, :2], other[0, :2], atol=1e-6)
    assert not torch.allclose(one[0, 2], other[0, 2], atol=1e-3)


def test_padding_changes_nothing(model: TwoTower) -> None:
    short, long = model(*inputs(1, 2, 3)), model(*inputs(0, 0, 0, 0, 1, 2, 3))
    assert torch.allclose(short, long[:, -3:], atol=1e-6)


def test_an_empty_history_of_any_length_has_the_same_finite_vector(model: TwoTower) -> None:
    one, many = model(*inputs(0))[:, -1], model(*inputs(0, 0, 0))[:, -1]
    assert torch.isfinite(one).all()
    assert torch.allclose(one, many, atol=1e-6)


def test_order_types_and_gaps_matter(model: TwoTower) -> None:
    history, types, gaps = inputs(1, 2, 3)
    base = model(history, types, gaps)[0, -1]
    for changed in (inputs(2, 1, 3), (history, types + 1, gaps), (history, types, gaps + 1)):
        assert not torch.allclose(base, model(*changed)[0, -1], atol=1e-4)


def test_served_tower_and_item_table_agree_with_the_towers(model: TwoTower) -> None:
    batch = inputs(0, 3, 1, 2)
    table = model.items.all_vectors().clone()
    table[0] = 0.0  # of padding
    served = ServedUserTower(model).eval()
    for history, types, gaps in (batch, inputs(0, 0, 0), inputs(2, 4)):
        expected = model(history, types, gaps)[:, -1]
        assert torch.allclose(served(table[history], types, gaps), expected, atol=1e-6)
    numbers = torch.tensor([[4, 0], [1, 1]])
    assert torch.allclose(ItemTable(model.items)(numbers), model.items(numbers), atol=1e-6)


def test_scores_are_scaled_cosines(model: TwoTower) -> None:
    assert torch.allclose(model.items.all_vectors().norm(dim=1), torch.ones(5), atol=1e-5)
    lengths = model(*inputs(1, 2, 3)).norm(dim=-1)
    assert torch.allclose(lengths, model.user.log_scale.exp().expand_as(lengths), atol=1e-4)


def test_a_new_item_has_the_trained_vector_of_its_attributes() -> None:
    model = TwoTower(SHAPE.model_copy(update={"id_dropout": 1.0}), ITEMS).train()  # attributes only
    trained = model.items.all_vectors()[2].detach().numpy()
    twin = Item("new", "Heat", ("Action",), creator="Mann")
    fresh = vectors_from_attributes([twin, Item("?")], model.items.words.weight.detach().numpy())
    np.testing.assert_allclose(fresh[0], trained, atol=1e-6)
    assert not fresh[1].any()  # nothing is known of it


def test_id_dropout_only_in_training(model: TwoTower) -> None:
    with_ids = model.items.all_vectors()
    model.items.id_dropout = 1.0
    assert torch.equal(model.items.all_vectors(), with_ids)
    assert not torch.allclose(model.train().items.all_vectors(), with_ids, atol=1e-3)


def test_attribute_hashes_never_change() -> None:
    assert list(attribute_texts(ITEMS[1])) == ["category=Action", "creator=Mann", "title=heat"]
    many = Item("m", title=" ".join(f"word{i}" for i in range(40)))
    table = hash_attributes([*ITEMS, many], 4096)
    assert table[0, 0] == table[1, 0] == 3960  # category=Action: a change would spoil trained models
    assert not table[3].any()
    assert np.count_nonzero(table[4]) == SLOTS
