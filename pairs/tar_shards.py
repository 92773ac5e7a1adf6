"""Webdataset tar shards as a stream (img2dataset's output, LAION-COCO): far more pairs than fit a disk's index.

In a shard, files of one sample follow one another and share their name up to the first dot: 000012.jpg, 000012.txt,
000012.json. Every consumer (a worker of a process) reads shards of its own, so that nothing is read twice.
"""

import itertools
import json
import logging
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import IterableDataset, get_worker_info

from pairs.augment import Augment
from pairs.batches import Batch, InputSize, Pairs, PairSplits
from pairs.loading import Loading, generator_for, whole_batches
from pairs.picture_folders import IMAGE_ENDINGS, decode
from utils.errors import UserError

logger = logging.getLogger(__name__)
_ATTEMPTS = 100


@dataclass(frozen=True)
class ShardSample:
    """Undecoded. `id` is img2dataset's number of the sample, else a checksum of its name."""

    image: bytes
    caption: str
    id: int
    name: str


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
    count = samples_per_epoch or sum(map(_recorded_count, train))
    stream = ShardStream(train, caption_key, augment, count, buffer)
    return PairSplits(stream, {name: _in_memory(held_out, caption_key, augment, validation_count)})


def find_shards(path: str | Sequence[str]) -> list[Path]:
    """Sorted within each entry. UserError for one that is nowhere."""
    found = []
    for entry in [path] if isinstance(path, str) else path:
        braces = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", entry)
        if braces:
            before, first, last, after = braces.groups()
            files = [Path(f"{before}{i:0{len(first)}}{after}") for i in range(int(first), int(last) + 1)]
        elif Path(entry).is_dir():
            files = sorted(Path(entry).glob("*.tar"))
        else:
            files = sorted(Path(entry).parent.glob(Path(entry).name))
        missing = [str(file) for file in files if not file.is_file()]
        if missing or not files:
            raise UserError(f"data_path={entry}: no such tar shards{f': {missing[0]} ...' if missing else ''}")
        found += files
    return found


def _recorded_count(shard: Path) -> int:
    stats = shard.with_name(f"{shard.stem}_stats.json")
    try:
        return int(json.loads(stats.read_text(encoding="utf-8"))["successes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{stats}: no count of samples there: give data.samples_per_epoch") from error


def read_shard(shard: Path, caption_key: str) -> Iterator[ShardSample]:
    """The samples of one tar file in order; those without an image or a caption are passed over.

    A shard that ends in the middle, as broken downloads do, is used as far as it goes, with a warning.
    """
    parts: dict[str, bytes] = {}
    current = ""
    try:
        with tarfile.open(shard, "r|") as archive:  # "|": a stream, no list of members is kept
            for member in archive:
                folder, _, file_name = member.name.rpartition("/")
                stem, _, ending = file_name.partition(".")
                if not member.isfile() or not stem:
                    continue
                if (key := f"{folder}/{stem}") != current:
                    yield from _sample(parts, current, shard, caption_key)
                    parts, current = {}, key
                file = archive.extractfile(member)
                parts[ending.lower()] = file.read() if file else b""
        yield from _sample(parts, current, shard, caption_key)
    except (OSError, tarfile.TarError) as error:
        logger.warning("%s: the rest of this shard cannot be read (%s)", shard, error)


def _sample(parts: Mapping[str, bytes], key: str, shard: Path, caption_key: str) -> Iterator[ShardSample]:
    image = next((data for ending, data in parts.items() if f".{ending}" in IMAGE_ENDINGS), None)
    ending, _, field = caption_key.partition(".")
    text = parts.get(ending)
    if image is None or text is None:
        return
    try:
        caption = json.loads(text)[field] if field else text.decode("utf-8", errors="replace")
    except (ValueError, KeyError, TypeError):
        return
    if isinstance(caption, str) and caption.strip():
        stem = key.rpartition("/")[2]
        number = int(stem) if stem.isdigit() and len(stem) < 19 else zlib.crc32(f"{shard.stem}{key}".encode())
        yield ShardSample(image, caption.strip(), number, f"{shard}:{key.lstrip('/')}")


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
                raise UserError(f"no image with a caption ({self.caption_key}) in {', '.join(map(str, own[:3]))} ...")


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
        raise UserError(f"{shards[0]}: no readable image with a caption ({caption_key}) to hold out")
    pictures, captions = [picture for _, picture in chosen], [[sample.caption] for sample, _ in chosen]
    ids = np.array([sample.id for sample, _ in chosen])
    return Pairs(pictures, np.arange(len(chosen)), captions, ids, augment)
