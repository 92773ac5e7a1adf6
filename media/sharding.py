"""One of n equal parts of a list: for clusters that start n jobs and tell each its number."""

import re
from collections.abc import Sequence
from typing import TypeVar

from utils.errors import UserError

T = TypeVar("T")


def parse_shard(text: str) -> tuple[int, int]:
    """ "3/8" -> (3, 8): the third of eight parts. Raises UserError for anything else."""
    match = re.fullmatch(r"\s*([0-9]+)\s*/\s*([0-9]+)\s*", str(text))
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"shard={text}: expected i/n with 1 <= i <= n, for example 1/8 ... 8/8")
    return int(match[1]), int(match[2])


def select(items: Sequence[T], shard: str | None) -> Sequence[T]:
    """Every n-th item from the i-th on, so that long and short ones, which often lie together, spread evenly."""
    if shard is None:
        return items
    number, count = parse_shard(shard)
    return items[number - 1 :: count]
