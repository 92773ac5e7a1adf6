"""Where data of captioners and of their grammar comes from: config groups `caption_data`, `grammar_data`."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path

from pairs.annotations import AnnotatedImage, in_words
from pairs.label_files import open_labels
from pairs.labels import Labels, make_labels, make_vocabulary
from pairs.picture_folders import Files
from pairs.scenes.scenes import Scenes
from pairs.splits import TRAIN_SPLITS, counted_splits
from training.captioning.data import CaptionData, LabelledGrids
from training.captioning.features import EMBEDDING, GRID, ImageFeatures, open_features
from training.captioning.scene_features import FeatureMaker
from utils.errors import UserError, check_count, given_path


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
    train, validation = trained_and_held_out(labels, labels_path, validation_split)
    images = [*train.images, *validation.images]
    grids = open_features(given_path("grids_path", grids_path, "a folder or HDF5 file of grid features"), images, GRID)
    embeddings = open_features(Path(embeddings_path).expanduser(), images, EMBEDDING) if embeddings_path else None
    return CaptionData(
        *_sources(train, validation, grids, embeddings, captions_per_image),
        labels.vocabulary,
        grid_settings=grids.settings(images[0].id),
        embedding_settings={} if embeddings is None else embeddings.settings(images[0].id),
    )


def trained_and_held_out(labels: Labels, labels_path: str | None, validation_split: str) -> tuple[Labels, Labels]:
    """UserError where there are none of either."""
    splits = labels.count_splits()
    for wanted in (TRAIN_SPLITS, (validation_split,)):
        if not any(splits[split] for split in wanted):
            raise UserError(
                f"labels_path={labels_path}: no images of split {' or '.join(wanted)}; there are "
                f"{counted_splits(splits.elements())}; --config-name caption_labels validation_share=0.1 holds some "
                "out, and validation_split= of caption_data or grammar_data names another split"
            )
    return labels.take(TRAIN_SPLITS), labels.take([validation_split])


def stored_embeddings(
    *, labels_path: str | None, embeddings_path: str | None, validation_split: str = "val"
) -> CaptionData:
    """Labels of `--config-name caption_labels`, embeddings of the model that is tuned to grammar, no grids."""
    labels = open_labels(labels_path)
    train, validation = trained_and_held_out(labels, labels_path, validation_split)
    path = given_path("embeddings_path", embeddings_path, "a folder or HDF5 file of image embeddings")
    embeddings = open_features(path, [*train.images, *validation.images], EMBEDDING)
    return CaptionData(*_sources(train, validation, {}, embeddings), labels.vocabulary)


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
    photos: Callable[[int, int], tuple[list[AnnotatedImage], Files]] | None = None,
) -> CaptionData:
    """Drawn scenes, with features that a CLIP model computes now; those held out show other combinations of facts.

    One group has at most 12 words, two have 22, three 31: raise `max_length` with `max_groups`. With `photos`, these as
    well, and as many more held out.
    """
    check_count("count", count)
    check_count("validation_count", validation_count)
    chosen, photographed = photos(validation_count, seed) if photos else ([], [])
    cache = Path(cache_path).expanduser() if cache_path else None
    features = FeatureMaker(model_name, resolution, device, batch_size, cache)
    scenes = [
        Scenes(count, seed=seed, size_px=size_px, split="train", max_groups=max_groups),
        Scenes(validation_count, seed=seed + 1, size_px=size_px, split="test", unique=True, max_groups=max_groups),
    ]
    images: list[AnnotatedImage] = []
    found = []
    for part in scenes:
        drawn = list(part.draw(f"scenes to {part.split} on"))
        images += [
            AnnotatedImage(f"{part.split}{i}", part.split, "", tuple(map(in_words, scene.captions)))
            for i, scene in enumerate(drawn)
        ]
        found.append(features.of_scenes(part, drawn))
    if photos:
        images += chosen
        found.append(features.of_pictures([*photographed]))

    ids = [image.id for image in images]
    grid_of, embedding_of = (dict(zip(ids, chain(*parts), strict=True)) for parts in zip(*found, strict=True))
    train, held_out = ([image for image in images if image.split == split] for split in ("train", "test"))
    vocabulary = make_vocabulary([*train, *held_out], train, threshold=word_count_threshold)
    labels = [make_labels(part, vocabulary, max_length=max_length) for part in (train, held_out)]
    return CaptionData(*_sources(labels[0], labels[1], grid_of, embedding_of, captions_per_image), vocabulary)


def _sources(
    train: Labels,
    validation: Labels,
    grids: ImageFeatures,
    embeddings: ImageFeatures | None,
    captions_per_image: int = 1,
) -> tuple[LabelledGrids, LabelledGrids]:
    return (
        LabelledGrids(train, grids, embeddings, train.known_captions, captions_per_image),
        LabelledGrids(validation, grids, embeddings, validation.whole_captions, captions_per_image),
    )
