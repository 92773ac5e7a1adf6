"""Where a captioner's data comes from: the options of config group `caption_data`. Each is a function."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pairs.scenes.scenes import Scene
from pairs.sources import given
from training.captioning.annotations import TRAIN_SPLITS, AnnotatedImage, words_of
from training.captioning.data import CaptionData, LabelledGrids
from training.captioning.features import Embeddings, Grids, open_embeddings, open_grids
from training.captioning.label_files import open_labels
from training.captioning.labels import Labels, make_labels, make_vocabulary
from training.captioning.photo_set import PhotoSet
from training.captioning.scene_features import PictureEncoders, SceneSet, scene_features
from utils.errors import check_count


def karpathy(
    *,
    labels_path: str | None,
    grids_path: str | None,
    embeddings_path: str | None = None,
    validation_split: str = "val",
    captions_per_image: int = 5,
) -> CaptionData:
    """Labels of `--config-name caption_labels` (or ImageCaptioning.pytorch), features as `features` understands them.

    Embeddings, of the reward model, may be left out where no reward and no metric asks for them.
    """
    labels = open_labels(labels_path)
    train, validation = labels.take(TRAIN_SPLITS), labels.take([validation_split])
    images = [*train.images, *validation.images]
    grids = open_grids(given("grids_path", grids_path, "a folder or HDF5 file of grid features"), images)
    embeddings = open_embeddings(Path(embeddings_path).expanduser(), images) if embeddings_path else None
    data = _data(train, validation, grids, embeddings, captions_per_image)
    noted = {} if embeddings is None else embeddings.settings(images[0].id)
    return replace(data, grid_settings=grids.settings(images[0].id), embedding_settings=noted)


def scenes(
    *,
    count: int,
    validation_count: int = 200,
    seed: int = 0,
    max_groups: int = 1,
    size_px: int = 64,
    resolution: int = 128,
    model_name: str = "tiny",
    device: str = "cuda:0",
    batch_size: int = 64,
    cache_path: str | None = None,
    max_length: int = 16,
    word_count_threshold: int = 5,
    captions_per_image: int = 5,
    photos: PhotoSet | None = None,
) -> CaptionData:
    """Drawn scenes, with features that a CLIP model computes now; those held out show other combinations of facts.

    One group has at most 12 words, two have 22, three 31: raise `max_length` with `max_groups`. With `photos`, these as
    well, and as many more held out.
    """
    for key, value in {"count": count, "validation_count": validation_count}.items():
        check_count(key, value)
    chosen = photos.choose(validation_count, seed) if photos else None
    encoders = PictureEncoders(model_name, resolution=resolution, device=device, batch_size=batch_size)
    pictures = _drawn(
        [
            SceneSet(count, seed, "train", max_groups, size_px),
            SceneSet(validation_count, seed + 1, "test", max_groups, size_px, unique=True),
        ],
        encoders,
        Path(cache_path).expanduser() if cache_path else None,
    )
    if chosen:
        features = encoders.encode(chosen.pictures())
        for image, grid, embedding in zip(chosen.annotated(), features.grids, features.embeddings, strict=True):
            pictures[image.split].add(image, grid, embedding)
    return _in_memory(pictures, max_length, word_count_threshold, captions_per_image)


@dataclass
class _Pictures:
    """Of one split, with their features."""

    images: list[AnnotatedImage] = field(default_factory=list)
    grids: dict[str, np.ndarray] = field(default_factory=dict)
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, image: AnnotatedImage, grid: np.ndarray, embedding: np.ndarray) -> None:
        self.images.append(image)
        self.grids[image.id], self.embeddings[image.id] = grid, embedding


def _drawn(scene_sets: Sequence[SceneSet], encoders: PictureEncoders, cache_path: Path | None) -> dict[str, _Pictures]:
    pictures = {}
    for scene_set in scene_sets:
        drawn = scene_set.draw()
        features = scene_features(drawn, scene_set, encoders, cache_path=cache_path)
        pictures[scene_set.split] = _Pictures()
        for image, grid, embedding in zip(
            _annotated(drawn, scene_set.split), features.grids, features.embeddings, strict=True
        ):
            pictures[scene_set.split].add(image, grid, embedding)
    return pictures


def _in_memory(
    pictures: dict[str, _Pictures], max_length: int, word_count_threshold: int, captions_per_image: int
) -> CaptionData:
    train, test = pictures["train"], pictures["test"]
    vocabulary = make_vocabulary([*train.images, *test.images], train.images, threshold=word_count_threshold)
    rows, held_out = (make_labels(part.images, vocabulary, max_length=max_length) for part in (train, test))
    grids, embeddings = train.grids | test.grids, train.embeddings | test.embeddings
    return _data(rows, held_out, grids, embeddings, captions_per_image)


def _annotated(drawn: Sequence[Scene], split: str) -> list[AnnotatedImage]:
    return [
        AnnotatedImage(f"{split}{number}", split, "", [words_of(caption) for caption in scene.captions])
        for number, scene in enumerate(drawn)
    ]


def _data(
    train: Labels, validation: Labels, grids: Grids, embeddings: Embeddings | None, captions_per_image: int
) -> CaptionData:
    return CaptionData(
        LabelledGrids(train, grids, embeddings, train.known_words, captions_per_image),
        LabelledGrids(validation, grids, embeddings, validation.all_words, captions_per_image),
        train.vocabulary,
    )
