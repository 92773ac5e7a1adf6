"""Where a captioner's data comes from: the options of config group `caption_data`. Each is a function."""

from pathlib import Path

import numpy as np

from pairs.annotations import TRAIN_SPLITS, AnnotatedImage, words_of
from pairs.label_files import open_labels
from pairs.labels import Labels, make_labels, make_vocabulary
from pairs.photo_set import PhotoSet
from pairs.scenes.scenes import Scenes
from training.captioning.data import CaptionData, LabelledGrids
from training.captioning.features import Embeddings, Grids, open_embeddings, open_grids
from training.captioning.scene_features import FeatureMaker
from utils.errors import check_count, given_path


def stored_captions(
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
    grids = open_grids(given_path("grids_path", grids_path, "a folder or HDF5 file of grid features"), images)
    embeddings = open_embeddings(Path(embeddings_path).expanduser(), images) if embeddings_path else None
    return CaptionData(
        *_sources(train, validation, grids, embeddings, captions_per_image),
        labels.vocabulary,
        grid_settings=grids.settings(images[0].id),
        embedding_settings={} if embeddings is None else embeddings.settings(images[0].id),
    )


def scene_captions(
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
    check_count("count", count)
    check_count("validation_count", validation_count)
    chosen = photos.choose(validation_count, seed) if photos else None
    cache = Path(cache_path).expanduser() if cache_path else None
    features = FeatureMaker(model_name, resolution, device, batch_size, cache)
    scenes = [
        Scenes(count, seed=seed, size_px=size_px, split="train", max_groups=max_groups),
        Scenes(validation_count, seed=seed + 1, size_px=size_px, split="test", unique=True, max_groups=max_groups),
    ]
    images: list[AnnotatedImage] = []
    grids: list[np.ndarray] = []
    embeddings: list[np.ndarray] = []
    for part in scenes:
        drawn = list(part.draw(f"scenes to {part.split} on"))
        images += [
            AnnotatedImage(f"{part.split}{i}", part.split, "", [words_of(caption) for caption in scene.captions])
            for i, scene in enumerate(drawn)
        ]
        found = features.of_scenes(part, drawn)
        grids, embeddings = [*grids, *found.grids], [*embeddings, *found.embeddings]
    if chosen:
        found = features.of_pictures(chosen.pictures())
        images += chosen.annotated()
        grids, embeddings = [*grids, *found.grids], [*embeddings, *found.embeddings]

    ids = [image.id for image in images]
    train, held_out = ([image for image in images if image.split == split] for split in ("train", "test"))
    vocabulary = make_vocabulary([*train, *held_out], train, threshold=word_count_threshold)
    labels = [make_labels(part, vocabulary, max_length=max_length) for part in (train, held_out)]
    grid_of, embedding_of = dict(zip(ids, grids, strict=True)), dict(zip(ids, embeddings, strict=True))
    return CaptionData(*_sources(labels[0], labels[1], grid_of, embedding_of, captions_per_image), vocabulary)


def _sources(
    train: Labels, validation: Labels, grids: Grids, embeddings: Embeddings | None, captions_per_image: int
) -> tuple[LabelledGrids, LabelledGrids]:
    return (
        LabelledGrids(train, grids, embeddings, train.known_captions, captions_per_image),
        LabelledGrids(validation, grids, embeddings, validation.whole_captions, captions_per_image),
    )
