"""What captioners are trained on: grids of images with all their captions, in batches that can be made again."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from extraction.threads import use_one_thread_here
from models.captioner.vocabulary import Vocabulary
from pairs.labels import Labels
from pairs.loading import Loading, generator_for, shared_out
from training.captioning.features import ImageFeatures
from utils.errors import UserError, check_count


@dataclass(frozen=True)
class CaptionBatch:
    """b images with k captions each as labels and all their captions, words with blanks between.

    `labels` = [0, words, 0 ...]; `mask` is 1 from the first 0 to the 0 that ends a caption, both included.
    """

    grids: Float32[Tensor, "b n c"]
    grid_mask: Bool[Tensor, "b n"] | None  # False where an image has fewer tokens; None where all have n
    labels: Int64[Tensor, "b k t"]
    mask: Float32[Tensor, "b k t"]
    references: list[list[str]]
    embeddings: Float32[Tensor, "b e"] | None  # of the reward model, of length 1
    ids: list[str]  # of the images

    def __post_init__(self) -> None:
        lengths = {len(part) for part in (self.grids, self.labels, self.mask, self.references, self.ids)}
        if len(lengths) > 1 or self.labels.shape != self.mask.shape:
            raise ValueError(f"parts of a batch differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.ids)


def parts(batch: CaptionBatch, number: int, device: torch.device) -> Iterator[CaptionBatch]:
    """Up to `number` parts of nearly the same size, one after another on the device.

    Embeddings stay where they are: rewards and metrics are computed on the CPU.
    """
    for rows in torch.arange(len(batch)).chunk(number):
        some = slice(int(rows[0]), int(rows[-1]) + 1)
        yield replace(
            batch,
            grids=batch.grids[some].to(device, non_blocking=True),
            grid_mask=None if batch.grid_mask is None else batch.grid_mask[some].to(device, non_blocking=True),
            labels=batch.labels[some].to(device, non_blocking=True),
            mask=batch.mask[some].to(device, non_blocking=True),
            references=batch.references[some],
            embeddings=None if batch.embeddings is None else batch.embeddings[some],
            ids=batch.ids[some],
        )


@dataclass(frozen=True)
class LabelledGrids:
    """Captions of `labels`, features by image id: in numbered batches, or one after another.

    `references` gives the captions of image number i: `labels.known_captions` for training, where CIDEr-D compares with
    what a captioner can say, `labels.whole_captions` for metrics. `loading.workers` are threads here: reading files is
    no work for Python.
    """

    labels: Labels
    grids: ImageFeatures
    embeddings: ImageFeatures | None
    references: Callable[[int], list[str]]
    captions_per_image: int = 5

    def __post_init__(self) -> None:
        check_count("captions_per_image", self.captions_per_image)

    def __len__(self) -> int:
        return len(self.labels)

    def need_embeddings(self) -> ImageFeatures:
        if self.embeddings is None:
            raise UserError("embeddings_path: expected the image embeddings, found nothing")
        return self.embeddings

    def batches(self, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[CaptionBatch]:
        """This process' share of batches `start`, `start` + 1, ... of an epoch: the same whenever it is asked.

        Batch k of all processes together is the same images with the same captions, however many processes.
        """
        shares = shared_out(torch.randperm(len(self), generator=generator_for(loading.seed, epoch)), loading)

        def make(number: int) -> CaptionBatch:
            generator = generator_for(loading.seed, epoch, number)
            draws = torch.rand(*shares.shape[1:], self.captions_per_image, generator=generator)
            return self.batch(shares[number, loading.rank].tolist(), draws[loading.rank].numpy())

        return ahead(make, range(start, len(shares)), threads=loading.workers)

    def in_order(self, loading: Loading) -> Iterator[CaptionBatch]:
        """Every image once, the last batch smaller; of several processes, each has every `world`-th image."""
        own = range(loading.rank, len(self), loading.world)

        def make(number: int) -> CaptionBatch:
            chosen = own[number * loading.batch_size : (number + 1) * loading.batch_size]
            return self.batch(chosen, np.zeros((len(chosen), self.captions_per_image)))

        return ahead(make, range(-(-len(own) // loading.batch_size)), threads=loading.workers)

    def all_references(self) -> Iterator[list[str]]:
        """The captions of each image in turn, say for document frequencies. Features are not touched."""
        return map(self.references, range(len(self)))

    def batch(self, numbers: Sequence[int], draws: np.ndarray) -> CaptionBatch:
        """Images by number; `draws` (b, k) in 0..1 choose the captions (see `window`)."""
        ids = [self.labels.images[number].id for number in numbers]
        grids, grid_mask = padded([self.grids[image_id] for image_id in ids], ids)
        captions = [window(self.labels.of_image(number), draw) for number, draw in zip(numbers, draws, strict=True)]
        labels, mask = with_ends(np.stack(captions))
        embeddings = None
        if self.embeddings is not None:
            embeddings = torch.from_numpy(np.stack([self.embeddings[image_id] for image_id in ids]))
        references = [self.references(number) for number in numbers]
        return CaptionBatch(grids, grid_mask, labels, mask, references, embeddings, ids)


@dataclass(frozen=True)
class CaptionData:
    """What is trained on, what is held out, and the words that can be said.

    `grid_settings` and `embedding_settings` are what the extractor noted beside them, {} where nothing is known.
    """

    train: LabelledGrids
    validation: LabelledGrids
    vocabulary: Vocabulary
    grid_settings: Mapping[str, Any] = field(default_factory=dict)
    embedding_settings: Mapping[str, Any] = field(default_factory=dict)


def window(rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """k of an image's captions (m, t): k that follow one another, or k drawn with return where there are fewer."""
    k, m = len(draws), len(rows)
    if m >= k:
        first = int(draws[0] * (m - k + 1))
        return rows[first : first + k]
    return rows[(draws * m).astype(np.int64)]


def with_ends(rows: np.ndarray) -> tuple[Int64[Tensor, "*b t"], Float32[Tensor, "*b t"]]:
    """(..., t) words -> (..., t + 2) labels between zeros, which begin and end a caption, and their mask."""
    labels = np.pad(rows.astype(np.int64), [(0, 0)] * (rows.ndim - 1) + [(1, 1)])
    lengths = (labels > 0).sum(axis=-1, keepdims=True)
    mask = (np.arange(labels.shape[-1]) < lengths + 2).astype(np.float32)
    return torch.from_numpy(labels), torch.from_numpy(mask)


def padded(grids: Sequence[np.ndarray], ids: Sequence[str]) -> tuple[Float32[Tensor, "b n c"], Tensor | None]:
    """One tensor, in pinned memory where a GPU waits for it. PyTorch converts, 30 times as fast as numpy does."""
    counts, widths = np.array([len(grid) for grid in grids]), [grid.shape[1] for grid in grids]
    if len(set(widths)) > 1:
        raise UserError(f"grids of {ids[0]} and others differ in width: {sorted(set(widths))}; of the same model?")
    same = counts.min() == counts.max()
    make = torch.empty if same else torch.zeros
    together = make((len(grids), int(counts.max()), widths[0]), pin_memory=torch.cuda.is_available())
    for target, grid in zip(together, grids, strict=True):
        target[: len(grid)] = torch.from_numpy(grid)
    return together, None if same else torch.from_numpy(np.arange(counts.max()) < counts[:, None])


def ahead(make: Callable[[int], CaptionBatch], numbers: range, *, threads: int) -> Iterator[CaptionBatch]:
    """`make` of each number, in order; as many are made in advance as there are threads. None: made when asked for."""
    if not threads:
        yield from map(make, numbers)
        return
    waiting: deque[Future[CaptionBatch]] = deque()
    with ThreadPoolExecutor(threads, "features", use_one_thread_here) as pool:
        try:
            for number in numbers:
                waiting.append(pool.submit(make, number))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
