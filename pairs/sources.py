"""What is trained on: pictures with captions from several kinds of source (options of config group `data`).

Each is a function that gives `PairSplits`. Held-out rows share no image with the training rows. Streams of tar shards
have a module of their own (`pairs.tar_shards`).
"""

import logging
from collections.abc import Sequence

import numpy as np
import torch

from media.caption_files import CaptionedFile, read_captions_csv, read_karpathy
from pairs.augment import Augment
from pairs.batches import Mixed, Pairs, PairSplits
from pairs.class_images import class_images
from pairs.picture_folders import Files, Folder, as_picture, in_memory
from pairs.scenes.facts import facts_id
from pairs.scenes.scenes import Scenes
from pairs.splits import TRAIN_SPLITS, VALIDATION, all_told, counted_splits, held_out_ids, with_validation
from utils.errors import UserError, check_count, check_flags, check_option, given_path, some

logger = logging.getLogger(__name__)


def csv_pairs(
    *,
    path: str | None,
    images: str | None,
    augment: Augment,
    validation_share: float = 0.2,
    split_seed: int = 42,
    validation_split: str = VALIDATION,
    first_ids: int | None = None,
    skip_missing: bool = False,
    cache: bool = False,
    name: str = "captions",
) -> PairSplits:
    """`image,caption` below a header line, perhaps `id` and `split`: one row a caption.

    Held out are the images of `validation_split`; where the file tells none, a share by `with_validation`.
    `first_ids`: of the ids 0..first_ids - 1 only; seed 1's `debug` is 100.
    """
    file = given_path("data_path", path, "a csv file with image,caption")
    listed = all_told(read_captions_csv(file, key="data_path"))
    if first_ids is not None:
        check_count("data.first_ids", first_ids)
        listed = [image for image in listed if image.number < first_ids]
        if not listed:
            raise UserError(f"data.first_ids={first_ids}: no image in {file} has an id below {first_ids}")
    if not any(image.split == validation_split for image in listed):
        check_option("data.validation_split", validation_split, [VALIDATION, *{image.split for image in listed}])
        listed = with_validation(listed, share=validation_share, seed=split_seed, where=f"data_path={file}")
        held_out = sum(image.split == VALIDATION for image in listed)
        logger.info("%s tells no images to validate on: %d of %d are held out", file, held_out, len(listed))
    return _listed_splits(images, listed, augment, validation_split, skip_missing, cache, name)


def karpathy_pairs(
    *,
    path: str | None,
    images: str | None,
    augment: Augment,
    validation_split: str = VALIDATION,
    skip_missing: bool = False,
    cache: bool = False,
    name: str = "captions",
) -> PairSplits:
    """Karpathy's json (COCO, Flickr8k, Flickr30k), split by its field `split`; `restval` joins the training images."""
    listed = read_karpathy(given_path("data_path", path, "Karpathy's json"), key="data_path")
    return _listed_splits(images, listed, augment, validation_split, skip_missing, cache, name)


def _listed_splits(
    images: str | None,
    listed: Sequence[CaptionedFile],
    augment: Augment,
    validation_split: str,
    skip_missing: bool,
    cache: bool,
    name: str,
) -> PairSplits:
    told = [image.split for image in listed]
    check_option("data.validation_split", validation_split, sorted(set(told)))
    if set(TRAIN_SPLITS).isdisjoint(told):
        raise UserError(f"data_path: no images of split {' or '.join(TRAIN_SPLITS)}; found {counted_splits(told)}")
    used = [image for image in listed if image.split in (*TRAIN_SPLITS, validation_split)]
    pairs, image_of = _listed_pairs(images, used, augment, skip_missing, cache, name)
    splits = np.array([image.split for image in image_of])
    trains, held_out = np.isin(splits, TRAIN_SPLITS), splits == validation_split
    if not (trains.any() and held_out.any()):
        counts = f"{trains.sum()} rows are trained on and {held_out.sum()} held out"
        raise UserError(f"{name}: of the images that are there, {counts}; both need some")
    return PairSplits(pairs.take(np.flatnonzero(trains)), {name: pairs.take(np.flatnonzero(held_out))})


def _listed_pairs(
    image_folder: str | None,
    listed: Sequence[CaptionedFile],
    augment: Augment,
    skip_missing: bool,
    cache: bool,
    name: str,
) -> tuple[Pairs, list[CaptionedFile]]:
    """One row a caption, and for each row its image. All are looked for now, not when their batch comes."""
    folder = Folder(given_path("image_folder", image_folder, "the folder of the images it names"))
    check_flags(**{"data.skip_missing": skip_missing})
    found = {image.files[0]: folder.find(image.files) for image in listed}
    if missing := [file for file, there in found.items() if there is None]:
        told = f"image_folder={folder.root}: {len(missing)} of {len(found)} images are not there: {some(missing)}"
        if not skip_missing or len(missing) == len(found):
            raise UserError(f"{told}; data.skip_missing=true leaves them out")
        logger.warning("%s; left out with their captions", told)
    there = [image for image in listed if found[image.files[0]]]
    rows = [(image, caption) for image in there for caption in image.texts]
    files = [found[image.files[0]] or "" for image, _ in rows]
    ids = np.array([image.number for image, _ in rows])
    pairs = _file_pairs(folder, files, [[caption] for _, caption in rows], ids, augment, cache, name)
    return pairs, [image for image, _ in rows]


def class_pairs(
    *,
    root: str | None,
    templates: Sequence[str],
    augment: Augment,
    validation_share: float = 0.02,
    split_seed: int = 42,
    cache: bool = True,
    name: str = "classes",
) -> PairSplits:
    """A folder (or zip) with a folder of images for each class; captions are the templates with the class's name.

    All images of a class are positives of one another: the id is the class, "_" in a folder's name reads as a space.
    """
    found = class_images(root, key="data_path")
    texts = [[template.format(label) for template in templates] for label in found.class_names]
    captions = [texts[label] for label in found.labels]
    pairs = _file_pairs(found.folder, found.files, captions, found.labels, augment, cache, name)
    held_out = held_out_ids(len(found.files), validation_share, split_seed)
    return _split(pairs, np.isin(np.arange(len(found.files)), held_out), name)


def scene_pairs(
    *, count: int, validation_count: int = 200, seed: int = 0, size_px: int = 64, augment: Augment, name: str = "scenes"
) -> PairSplits:
    """Drawn scenes; those held out show combinations of facts that no training scene shows, each only once."""
    train = Scenes(count, seed=seed, size_px=size_px, split="train")
    held_out = Scenes(validation_count, seed=seed + 1, size_px=size_px, split="test", unique=True)
    return PairSplits(_drawn_pairs(train, augment, name), {name: _drawn_pairs(held_out, augment, name)})


def _drawn_pairs(scenes: Scenes, augment: Augment, name: str) -> Pairs:
    """All of them drawn now, 12 KB each at 64 px: drawing takes longer than augmenting."""
    images = torch.empty((len(scenes), 3, scenes.size_px, scenes.size_px), dtype=torch.uint8)
    captions, ids = [], []
    for i, scene in enumerate(scenes.draw(name)):
        images[i] = as_picture(scene.image)
        captions.append(scene.captions)
        ids.append(facts_id(scene.facts))
    return Pairs(images, np.arange(len(scenes)), captions, np.array(ids), augment)


def mixed_pairs(*, sources: Sequence[PairSplits], weights: Sequence[float]) -> PairSplits:
    """Several sources (no streams) trained on together and held out one by one; for `weights` see `Mixed`."""
    parts = [source.train for source in sources]
    if len(parts) != len(weights) or not all(isinstance(part, Pairs | Mixed) for part in parts):
        raise UserError(
            f"data: expected a weight for each source, and no shards; found {len(parts)} and {len(weights)}"
        )
    validation = {name: rows for source in sources for name, rows in source.validation.items()}
    return PairSplits(Mixed(parts, weights), validation)  # pyright: ignore[reportArgumentType]


def _file_pairs(
    folder: Folder,
    files: Sequence[str],
    captions: Sequence[Sequence[str]],
    ids: np.ndarray,
    augment: Augment,
    cache: bool,
    name: str,
) -> Pairs:
    """A file that several rows name is one picture."""
    number = {file: i for i, file in enumerate(dict.fromkeys(files))}
    pictures = Files(folder, list(number))
    picture_of = np.array([number[file] for file in files])
    return Pairs(in_memory(pictures, name) if cache else pictures, picture_of, captions, ids, augment)


def _split(pairs: Pairs, held_out: np.ndarray, name: str) -> PairSplits:
    if not held_out.any() or held_out.all():
        raise UserError(f"{name}: {held_out.sum()} of {len(held_out)} rows are held out: change the validation share")
    return PairSplits(pairs.take(np.flatnonzero(~held_out)), {name: pairs.take(np.flatnonzero(held_out))})
