"""Webdataset tar shards as a stream (img2dataset's output, LAION-COCO): far more pairs than fit a disk's index.

Every consumer (a worker of a process) reads shards of its own, so that nothing is read twice.
"""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import IterableDataset, get_worker_info

from pairs.augment import Augment
from pairs.batches import Batch, InputSize, Pairs, PairSplits
from pairs.loading import Loading, generator_for, whole_batches
from pairs.picture_folders import decode
from pairs.shard_files import ShardSample, find_shards, nothing_in, read_shard, recorded_count
from utils.errors import UserError

logger = logging.getLogger(__name__)
_ATTEMPTS = 100


def shard_pairs(
    *,
    path: str | Sequence[str] | None,
    augment: Augment,
    caption_key: str = "txt",
    samples_per_epoch: int | None = None,
    validation_shards: int = 1,
    validation_count: int = 2048,
    buffer: int = 10_000,
    name: str = "shards",
) -> PairSplits:
    """`path`: tar files, a folder of them, a glob, or `shards/{00000..00099}.tar`; the last ones are held out.

    `caption_key` is the ending of the captions' files, or `json.<field>`: LAION-COCO has `json.top_caption`.
    `samples_per_epoch` null takes the counts that img2dataset leaves beside its shards (`00000_stats.json`).
    """
    if not path:
        raise UserError("data_path: expected tar shards, a folder of them or a pattern, found nothing")
    files = find_shards(path)
    if not 0 < validation_shards < len(files):
        raise UserError(f"data.validation_shards={validation_shards}: {len(files)} shards in all, some must remain")
    train, held_out = files[:-validation_shards], files[-validation_shards:]
    count = samples_per_epoch or sum(map(recorded_count, train))
    stream = ShardStream(train, caption_key, augment, count, buffer)
    return PairSplits(stream, {name: _in_memory(held_out, caption_key, augment, validation_count)})


@dataclass(frozen=True)
class ShardStream:
    """Shards in an order of each epoch, samples through a shuffle buffer; pictures are decoded when they leave it."""

    shards: Sequence[Path]
    caption_key: str
    augment: Augment
    samples_per_epoch: int
    buffer: int

    def __len__(self) -> int:
        return self.samples_per_epoch

    def batches(self, size: InputSize, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[Batch]:
        consumers = loading.world * max(1, loading.workers)
        if len(self.shards) < consumers:
            raise UserError(
                f"{len(self.shards)} shards for {loading.world} process(es) with {max(1, loading.workers)} worker(s): "
                "each needs one of its own; lower `workers`"
            )
        steps = whole_batches(len(self), loading)
        return loading.iterate(_EpochOfStream(self, size, loading, epoch, start, steps))

    def all_captions(self) -> Iterator[str]:
        """Of the first shards only: a vocabulary needs no more."""
        return (sample.caption for shard in self.shards[:10] for sample in read_shard(shard, self.caption_key))

    def samples(self, loading: Loading, consumer: int, consumers: int, epoch: int) -> Iterator[ShardSample]:
        """Of the shards of one consumer, without end: once they are through, all are dealt out anew."""
        for passes in itertools.count():
            order = torch.randperm(len(self.shards), generator=generator_for(loading.seed, epoch, passes)).tolist()
            own = [self.shards[number] for number in order[consumer::consumers]]
            found = False
            for shard in own:
                for sample in read_shard(shard, self.caption_key):
                    found = True
                    yield sample
            if not found:
                raise nothing_in(own, self.caption_key)


@dataclass(eq=False)
class _EpochOfStream(IterableDataset):
    """Batches `start`, `start` + 1, ... of an epoch. Batch k comes from worker k modulo their number.

    What was delivered before is read again but not decoded, which takes a fraction of the time.
    """

    stream: ShardStream
    size: InputSize
    loading: Loading
    epoch: int
    start: int
    steps: int

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        workers = info.num_workers if info else 1
        # The loader asks worker 0 first: whoever has batch number `start` takes its place.
        worker = ((info.id if info else 0) + self.start) % workers
        loading, consumers = self.loading, self.loading.world * workers
        consumer = loading.rank * workers + worker
        samples = self.stream.samples(loading, consumer, consumers, self.epoch)
        draws = np.random.default_rng([loading.seed, self.epoch, consumer])
        held = list(itertools.islice(samples, max(self.stream.buffer, 1)))
        for number in range(worker, self.steps, workers):
            taken = []
            for place in (draws.integers(len(held)) for _ in range(loading.batch_size)):
                taken.append(held[place])
                held[place] = next(samples)
            if number >= self.start:
                yield self._batch(taken, held, generator_for(loading.seed, self.epoch, number, loading.rank))

    def _batch(self, taken: list[ShardSample], held: Sequence[ShardSample], generator: Generator) -> Batch:
        """A picture that cannot be decoded is replaced by one of those held, which stays there: the stream does not
        move, and all processes bring equal batches.
        """
        pictures, unreadable = [], 0
        for i, sample in enumerate(taken):
            while (picture := _decoded(sample)) is None:
                unreadable += 1
                if unreadable > _ATTEMPTS * len(taken):
                    raise UserError(f"{sample.name}: neither this nor hundreds of other images can be decoded")
                sample = held[int(torch.randint(len(held), (1,), generator=generator))]
            taken[i] = sample
            pictures.append(picture)
        images = self.stream.augment(pictures, self.size.resolution, self.size.resize, generator)
        return Batch(images, [s.caption for s in taken], torch.tensor([s.id for s in taken]), unreadable)


def _decoded(sample: ShardSample) -> Tensor | None:
    try:
        return decode(sample.image, sample.name)
    except UserError as error:
        logger.debug("%s", error)  # counted in the batch: a web-scale set has thousands
        return None


def _in_memory(shards: Sequence[Path], caption_key: str, augment: Augment, count: int) -> Pairs:
    samples = (sample for shard in shards for sample in read_shard(shard, caption_key))
    readable = ((sample, picture) for sample in samples if (picture := _decoded(sample)) is not None)
    chosen = list(itertools.islice(readable, count))
    if not chosen:
        if not any(sample for shard in shards for sample in read_shard(shard, caption_key)):
            raise nothing_in(shards, caption_key)
        raise UserError(f"{shards[0]}: no readable image with a caption ({caption_key}) to hold out")
    pictures, captions = [picture for _, picture in chosen], [[sample.caption] for sample, _ in chosen]
    ids = np.array([sample.id for sample, _ in chosen])
    return Pairs(pictures, np.arange(len(chosen)), captions, ids, augment)
