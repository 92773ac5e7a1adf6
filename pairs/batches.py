"""Pictures with captions, in batches that can be made again: the values that travel from the data to the loop."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Generator, Tensor
from torch.utils.data import Dataset

from extraction.preprocess import Resize
from pairs.augment import Augment, fit
from pairs.loading import Loading, generator_for, shared_out
from pairs.picture_folders import PictureList


@dataclass(frozen=True)
class Batch:
    """`ids` say which pairs belong together: rows with equal ids are positives of one another (loss, recall)."""

    images: UInt8[Tensor, "b 3 n n"]
    captions: list[str]
    ids: Int64[Tensor, " b"]
    unreadable: int = 0  # pictures of a stream that could not be decoded; others stand in for them

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.captions) == len(self.ids):
            raise ValueError(f"{len(self.images)} images, {len(self.captions)} captions, {len(self.ids)} ids")


@dataclass(frozen=True)
class InputSize:
    """What the image tower takes: n x n pixels, made by cropping or by squashing."""

    resolution: int
    resize: Resize = "crop"


@runtime_checkable
class PairSource(Protocol):
    """What is trained on: rows in memory or on disk (`Pairs`, `Mixed`), or a stream (`tar_shards.ShardStream`)."""

    def __len__(self) -> int:
        """Rows that an epoch shows."""
        ...

    def batches(self, size: InputSize, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This process' share of batches `start`, `start` + 1, ... of an epoch: the same whenever it is asked."""
        ...

    def all_captions(self) -> Iterator[str]:
        """For a text tower that learns its vocabulary."""
        ...


@dataclass(frozen=True)
class Pairs:
    """Row k is picture `picture_of[k]` with one of `captions[k]`, drawn anew each time (the first for evaluation)."""

    pictures: PictureList
    picture_of: np.ndarray  # int64 (n,)
    captions: Sequence[Sequence[str]]
    ids: np.ndarray  # int64 (n,)
    augment: Augment

    def __len__(self) -> int:
        return len(self.picture_of)

    def order(self, generator: Generator) -> Int64[Tensor, " n"]:
        """Every row once, shuffled."""
        return torch.randperm(len(self), generator=generator)

    def batch(self, rows: Int64[Tensor, " b"], size: InputSize, generator: Generator | None = None) -> Batch:
        """Augmented with a generator (training), the plain view of every row without one (evaluation)."""
        numbers: list[int] = rows.tolist()
        pictures = [self.pictures[int(self.picture_of[number])] for number in numbers]
        options = [self.captions[number] for number in numbers]
        if generator is None:
            images = torch.cat([fit(picture.unsqueeze(0), size.resolution, size.resize) for picture in pictures])
            chosen = [texts[0] for texts in options]
        else:
            images = self.augment(pictures, size.resolution, size.resize, generator)
            draws = torch.rand(len(options), generator=generator).tolist()
            chosen = [texts[int(draw * len(texts))] for texts, draw in zip(options, draws, strict=True)]
        return Batch(images, chosen, torch.from_numpy(self.ids[rows.numpy()]))

    def take(self, rows: np.ndarray) -> "Pairs":
        captions = [self.captions[row] for row in rows]
        return replace(self, picture_of=self.picture_of[rows], captions=captions, ids=self.ids[rows])

    def batches(self, size: InputSize, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        return numbered_batches(self, size, loading, epoch=epoch, start=start)

    def all_captions(self) -> Iterator[str]:
        return (caption for options in self.captions for caption in options)


@dataclass(frozen=True)
class Mixed:
    """Several sources in one: an epoch shows each row of a source `weight` times (0.5: half of them, chosen anew)."""

    parts: Sequence["Rows"]
    weights: Sequence[float]

    def __len__(self) -> int:
        return sum(self._counts())

    def _counts(self) -> list[int]:
        return [round(len(part) * weight) for part, weight in zip(self.parts, self.weights, strict=True)]

    def order(self, generator: Generator) -> Int64[Tensor, " n"]:
        """Numbers of rows, those of later parts counted on from the earlier ones."""
        chosen, start = [torch.empty(0, dtype=torch.int64)], 0
        for part, count in zip(self.parts, self._counts(), strict=True):
            passes = -(-count // len(part))
            chosen += [part.order(generator)[: count - i * len(part)] + start for i in range(passes)]
            start += len(part)
        rows = torch.cat(chosen)
        return rows[torch.randperm(len(rows), generator=generator)]

    def batch(self, rows: Int64[Tensor, " b"], size: InputSize, generator: Generator | None = None) -> Batch:
        """Rows of the first part come first: losses and recalls do not mind the order."""
        batches, start = [], 0
        for i, part in enumerate(self.parts):
            own = rows[(rows >= start) & (rows < start + len(part))] - start
            start += len(part)
            if len(own):
                batch = part.batch(own, size, generator)
                batches.append(replace(batch, ids=batch.ids % (1 << 40) + (i << 40)))  # two sources never share one
        captions = [caption for batch in batches for caption in batch.captions]
        return Batch(torch.cat([b.images for b in batches]), captions, torch.cat([b.ids for b in batches]))

    def batches(self, size: InputSize, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        return numbered_batches(self, size, loading, epoch=epoch, start=start)

    def all_captions(self) -> Iterator[str]:
        return (caption for part in self.parts for caption in part.all_captions())


Rows = Pairs | Mixed


def numbered_batches(rows: Rows, size: InputSize, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[Batch]:
    """This process' share of batches `start`, `start` + 1, ... of an epoch, whatever was asked for before."""
    own = shared_out(rows.order(generator_for(loading.seed, epoch)), loading)[:, loading.rank]
    return loading.iterate(_Numbered(rows, own, size, loading, epoch), range(start, len(own)))


@dataclass(eq=False)
class _Numbered(Dataset):
    """Batch k of one epoch, drawn from a generator of its own: neither workers nor restarts change anything."""

    rows: Rows
    order: Int64[Tensor, "steps b"]
    size: InputSize
    loading: Loading
    epoch: int

    def __getitem__(self, number: int) -> Batch:
        generator = generator_for(self.loading.seed, self.epoch, number, self.loading.rank)
        return self.rows.batch(self.order[number], self.size, generator)


@dataclass(frozen=True)
class PairSplits:
    """What is trained on, and the held-out parts by name."""

    train: PairSource
    validation: Mapping[str, Pairs]
