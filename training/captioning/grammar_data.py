"""What a grammar reward is trained on (config group `grammar_data`): image embeddings, captions and their negatives."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from models.captioner.vocabulary import Vocabulary
from pairs.annotations import TRAIN_SPLITS
from pairs.label_files import open_labels
from pairs.labels import Labels
from pairs.loading import Loading, generator_for, shared_out, whole_batches
from training.captioning.features import Embeddings, open_embeddings
from training.captioning.negatives import Negative, corrupt
from training.captioning.sources import scene_captions
from utils.errors import UserError, given_path


@dataclass(frozen=True)
class GrammarBatch:
    """A caption of each image, and a negative of that caption."""

    embeddings: Float32[Tensor, "b e"]  # of length 1
    captions: list[str]
    negatives: list[Negative]
    image_ids: list[str]


@dataclass(frozen=True)
class CaptionedEmbeddings:
    """Image number i has id `image_ids[i]` and the captions `references(i)`, one of which is drawn each time."""

    image_ids: Sequence[str]
    embeddings: Embeddings
    references: Callable[[int], list[str]]
    vocabulary: Sequence[str]  # words for negatives

    def __len__(self) -> int:
        return len(self.image_ids)

    def steps_per_epoch(self, loading: Loading) -> int:
        return whole_batches(len(self), loading)

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
            captions.append(draw.choice(self.references(number)))
            negatives.append(corrupt(captions[-1].split(" "), self.vocabulary, draw))
        ids = [self.image_ids[number] for number in numbers]
        embeddings = torch.from_numpy(np.stack([self.embeddings[image_id] for image_id in ids]))
        return GrammarBatch(embeddings, captions, negatives, ids)


@dataclass(frozen=True)
class GrammarData:
    train: CaptionedEmbeddings
    validation: CaptionedEmbeddings


def stored_embeddings(
    *, labels_path: str | None, embeddings_path: str | None, validation_split: str = "val"
) -> GrammarData:
    """Labels of `--config-name caption_labels`, embeddings of the model that is tuned. Grids are not needed."""
    labels = open_labels(labels_path)
    train, validation = labels.take(TRAIN_SPLITS), labels.take([validation_split])
    folder = given_path("embeddings_path", embeddings_path, "a folder or HDF5 file of image embeddings")
    embeddings = open_embeddings(folder, [*train.images, *validation.images])
    return GrammarData(_captioned(train, embeddings), _captioned(validation, embeddings))


def scene_embeddings(
    *,
    count: int,
    validation_count: int = 200,
    seed: int = 0,
    max_groups: int = 1,
    model_name: str = "tiny",
    device: str = "cuda:0",
    cache_path: str | None = None,
) -> GrammarData:
    """Drawn scenes, with the embeddings of `model_name`."""
    data = scene_captions(
        count=count,
        validation_count=validation_count,
        seed=seed,
        max_groups=max_groups,
        model_name=model_name,
        device=device,
        cache_path=cache_path,
        word_count_threshold=0,
    )
    assert data.train.embeddings is not None
    train, validation = (_captioned(part.labels, data.train.embeddings) for part in (data.train, data.validation))
    return GrammarData(train, validation)


def _captioned(labels: Labels, embeddings: Embeddings) -> CaptionedEmbeddings:
    words = [word for word in labels.vocabulary.words if word != Vocabulary.unk]
    if len(words) < 2:
        raise UserError(f"the vocabulary has {len(words)} word(s): negatives need two to choose from")
    return CaptionedEmbeddings([image.id for image in labels.images], embeddings, labels.whole_captions, words)
