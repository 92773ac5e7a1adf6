"""What a grammar reward is trained on: image embeddings, captions and their negatives."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from models.captioner.vocabulary import Vocabulary
from pairs.labels import Labels
from pairs.loading import Loading, generator_for, shared_out
from training.captioning.data import CaptionData
from training.captioning.features import ImageFeatures
from training.captioning.negatives import Negative, corrupt
from utils.errors import UserError


@dataclass(frozen=True)
class GrammarBatch:
    """A caption of each image, and a negative of that caption."""

    embeddings: Float32[Tensor, "b e"]  # of length 1
    captions: list[str]
    negatives: list[Negative]
    ids: list[str]  # of the images


@dataclass(frozen=True)
class CaptionedEmbeddings:
    """Images with their whole captions, one of which is drawn each time."""

    labels: Labels
    embeddings: ImageFeatures
    vocabulary: Sequence[str]  # words for negatives

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, loading: Loading, *, epoch: int, start: int = 0) -> Iterator[GrammarBatch]:
        """Batch k of all processes together is the same captions and negatives, however many processes."""
        shares = shared_out(torch.randperm(len(self), generator=generator_for(loading.seed, epoch)), loading)
        for number in range(start, len(shares)):
            seeds = torch.randint(2**62, shares.shape[1:], generator=generator_for(loading.seed, epoch, number))
            yield self.batch(shares[number, loading.rank].tolist(), seeds[loading.rank].tolist())

    def in_order(self, batch_size: int) -> Iterator[GrammarBatch]:
        """Every image once, with the same caption and the same negative each time."""
        for start in range(0, len(self), batch_size):
            numbers = range(start, min(start + batch_size, len(self)))
            yield self.batch(numbers, numbers)

    def batch(self, numbers: Sequence[int], seeds: Sequence[int]) -> GrammarBatch:
        captions, negatives = [], []
        for number, seed in zip(numbers, seeds, strict=True):
            draw = Random(seed)
            captions.append(draw.choice(self.labels.whole_captions(number)))
            negatives.append(corrupt(captions[-1].split(" "), self.vocabulary, draw))
        ids = [self.labels.images[number].id for number in numbers]
        embeddings = torch.from_numpy(np.stack([self.embeddings[image_id] for image_id in ids]))
        return GrammarBatch(embeddings, captions, negatives, ids)


@dataclass(frozen=True)
class GrammarData:
    train: CaptionedEmbeddings
    validation: CaptionedEmbeddings

    @classmethod
    def of(cls, data: CaptionData) -> "GrammarData":
        """Without the grids. UserError where the vocabulary is too small."""
        words = [word for word in data.vocabulary.words if word != Vocabulary.unk]
        if len(words) < 2:
            raise UserError(f"the vocabulary has {len(words)} word(s): negatives need two to choose from")
        train, validation = (
            CaptionedEmbeddings(part.labels, part.need_embeddings(), words) for part in (data.train, data.validation)
        )
        return cls(train, validation)
