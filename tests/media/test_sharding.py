"""`shard=i/n`: the parts together are the list, each item once."""

import pytest

from media.sharding import parse_shard, select
from utils.errors import UserError


@pytest.mark.parametrize(
    ("text", "expected"), [("1/1", (1, 1)), ("1/8", (1, 8)), ("8/8", (8, 8)), (" 3 / 10 ", (3, 10))]
)
def test_parse(text: str, expected: tuple[int, int]) -> None:
    assert parse_shard(text) == expected


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "0/0", "-1/8", "1", "1/", "/8", "1/8/2", "1.0/8", "", "²/3"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_shard(text)
    assert str(caught.value) == f"shard={text}: expected i/n with 1 <= i <= n, for example 1/8 ... 8/8"


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_parts_are_disjoint_complete_and_of_equal_size(length: int, count: int) -> None:
    items = list(range(length))
    parts = [list(select(items, f"{number}/{count}")) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == items[number::count] for number, part in enumerate(parts))


def test_without_a_shard_everything() -> None:
    assert select([1, 2, 3], None) == [1, 2, 3]


def test_a_wrong_shard_is_told_for_an_empty_list_too() -> None:
    with pytest.raises(UserError, match="shard=9/8"):
        select([], "9/8")
