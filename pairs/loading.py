"""How the batches of an epoch are made: in between or ahead, in worker processes, shared out among processes."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from utils.errors import UserError


@dataclass(frozen=True)
class Loading:
    """How batches are made: `batch_size` pairs for each of `world` processes, of which this is number `rank`."""

    batch_size: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    workers: int = 0  # processes that prepare batches ahead; 0 prepares each when it is asked for

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.world

    def iterate(self, dataset: Dataset | IterableDataset, numbers: range | None = None) -> Iterator[Any]:
        """The items of a data set whose items are batches, in order."""
        context = None
        if self.workers:  # forked from a server that has imported everything: they start quickly, epoch after epoch
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["utils.left_to_parent", "pairs.tar_shards"])
        return iter(
            DataLoader(
                dataset,
                batch_size=None,
                sampler=numbers,  # pyright: ignore[reportArgumentType]
                num_workers=self.workers,
                pin_memory=torch.cuda.is_available(),
                generator=torch.Generator(),  # else a seed would be drawn from the generator that dropout uses
                multiprocessing_context=context,
            )
        )


def generator_for(*numbers: int) -> torch.Generator:
    """A generator for several numbers together, say (seed, epoch, batch); neighbours give unrelated draws."""
    state = 0
    for number in numbers:  # splitmix64 (Steele et al. 2014)
        state = (state + number + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    return torch.Generator().manual_seed(state >> 1)


def whole_batches(num_rows: int, loading: Loading) -> int:
    """Steps of an epoch. Rows that fill no batch are left out, other ones in each epoch."""
    steps = num_rows // loading.global_batch_size
    if not steps:
        raise UserError(
            f"batch_size={loading.batch_size}, {loading.world} process(es), but only {num_rows} rows to train on: "
            "lower batch_size"
        )
    return steps


def shared_out(order: Int64[Tensor, " n"], loading: Loading) -> Int64[Tensor, "steps world b"]:
    """Batch k of all processes together is the same rows, however many processes share batch_size x world."""
    steps = whole_batches(len(order), loading)
    return order[: steps * loading.global_batch_size].view(steps, loading.world, loading.batch_size)
