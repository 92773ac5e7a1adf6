"""What is trained on: pictures with captions from several kinds of source (options of config group `data`).

Each is a function that gives `Splits`. Held-out rows share no image with the training rows. Streams of tar shards have
a module of their own (`training.shards`).
"""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from training.augment import Augment
from training.pairs import Mixed, Pairs, Splits
from utils.errors import UserError, check_option
from utils.media.pictures import Files, Folder, as_picture, in_memory
from utils.scenes.facts import facts_id
from utils.scenes.scenes import Scenes


def captions_csv(
    *,
    path: str | None,
    images: str | None,
    augment: Augment,
    validation_share: float = 0.2,
    split_seed: int = 42,
    cache: bool = False,
    name: str = "captions",
) -> Splits:
    """`image,caption,id` (the header is required): one row a caption, rows of one image share their id.

    Split by image id as seed 1 has it: `validation_share` of the ids 0..max, numpy's legacy generator, no return.
    """
    rows = _read_csv(given("data_path", path, "captions.csv with image,caption,id"))
    ids = np.array([int(row["id"]) for row in rows])
    held_out = held_out_ids(int(ids.max()) + 1, validation_share, split_seed)
    pairs = _file_pairs(
        Folder(given("image_folder", images, "the folder of the images it names")),
        [row["image"] for row in rows],
        [[row["caption"]] for row in rows],
        ids,
        augment,
        cache,
        name,
    )
    return _split(pairs, np.isin(ids, held_out), name)


def given(key: str, path: str | None, expected: str) -> Path:
    """UserError where a path that this kind of data needs was not given."""
    if not path:
        raise UserError(f"{key}: expected {expected}, found nothing")
    return Path(path).expanduser()


def _read_csv(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = {"image", "caption", "id"} - set(reader.fieldnames or ())
            rows = list(reader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the captions cannot be read ({error})") from error
    if missing:
        raise UserError(f"{path}: expected a header line with image,caption,id; missing: {', '.join(sorted(missing))}")
    for line, row in enumerate(rows, start=2):
        if not row["image"] or not row["caption"] or not (row["id"] or "").isdigit():
            raise UserError(f"{path}, row {line}: expected an image, a caption and a whole number as id, found {row}")
    if not rows:
        raise UserError(f"{path}: no captions below the header")
    return rows


def held_out_ids(count: int, share: float, seed: int) -> np.ndarray:
    """`int(share * count)` of the ids 0..count-1, the very ids that seed 1's code holds out."""
    return np.random.RandomState(seed).choice(np.arange(count), size=int(share * count), replace=False)


def karpathy(
    *,
    path: str | None,
    images: str | None,
    augment: Augment,
    validation_split: str = "val",
    cache: bool = False,
    name: str = "captions",
) -> Splits:
    """Karpathy's json (COCO, Flickr8k, Flickr30k), split by its field `split`; `restval` joins the training images."""
    content = _read_karpathy(given("data_path", path, "Karpathy's json"))
    folder = Folder(given("image_folder", images, "the folder of the images it names"))
    files, captions, ids, splits = [], [], [], []
    for number, image in enumerate(content):
        below = f"{image.get('filepath')}/{image['filename']}"  # COCO's images lie below a folder for each split
        for sentence in image["sentences"]:
            files.append(below if folder.has(below) else image["filename"])
            captions.append([sentence["raw"]])
            ids.append(int(image.get("cocoid", image.get("imgid", number))))
            splits.append(image["split"])
    check_option("validation_split", validation_split, sorted(set(splits)))
    trains, held_out = np.isin(splits, ["train", "restval"]), np.array(splits) == validation_split
    pairs = _file_pairs(folder, files, captions, np.array(ids), augment, cache, name)
    return Splits(pairs.take(np.flatnonzero(trains)), {name: pairs.take(np.flatnonzero(held_out))})


def _read_karpathy(path: Path) -> list[dict]:
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected Karpathy's json with a list `images` ({error!r})") from error
    for image in images:
        missing = {"filename", "split", "sentences"} - set(image)
        if missing:
            raise UserError(f"{path}: an image lacks {', '.join(sorted(missing))}: {str(image)[:100]}")
    return images


def class_folders(
    *,
    root: str | None,
    templates: Sequence[str],
    augment: Augment,
    validation_share: float = 0.02,
    split_seed: int = 42,
    cache: bool = True,
    name: str = "classes",
) -> Splits:
    """A folder (or zip) with a folder of images for each class; captions are the templates with the class's name.

    All images of a class are positives of one another: the id is the class, "_" in a folder's name reads as a space.
    """
    folder = Folder(given("data_path", root, "a folder or zip with a folder of images for each class"))
    files = folder.names()
    class_of = [file.rpartition("/")[0].rpartition("/")[2] for file in files]
    classes = sorted(set(class_of))
    if len(classes) < 2:
        raise UserError(f"{root}: expected a folder of images for each class, found {classes or 'no images'}")
    texts = [[template.format(label.replace("_", " ")) for template in templates] for label in classes]
    labels = np.array([classes.index(label) for label in class_of])
    pairs = _file_pairs(folder, files, [texts[label] for label in labels], labels, augment, cache, name)
    held_out = held_out_ids(len(files), validation_share, split_seed)
    return _split(pairs, np.isin(np.arange(len(files)), held_out), name)


def scenes(
    *, count: int, validation_count: int = 200, seed: int = 0, size_px: int = 64, augment: Augment, name: str = "scenes"
) -> Splits:
    """Drawn scenes; those held out show combinations of facts that no training scene shows, each only once."""
    train = Scenes(count, seed=seed, resolution=size_px, split="train")
    held_out = Scenes(validation_count, seed=seed + 1, resolution=size_px, split="test", unique=True)
    return Splits(_drawn_pairs(train, augment, name), {name: _drawn_pairs(held_out, augment, name)})


def _drawn_pairs(dataset: Scenes, augment: Augment, name: str) -> Pairs:
    """All of them drawn now, 12 KB each at 64 px: drawing takes longer than augmenting."""
    images = torch.empty((len(dataset), 3, dataset.resolution, dataset.resolution), dtype=torch.uint8)
    captions, ids = [], []
    for i in tqdm(range(len(dataset)), desc=f"{name}: drawing", unit="", leave=False, delay=2):
        scene = dataset.scene(i)
        images[i] = as_picture(scene.image)
        captions.append(scene.captions)
        ids.append(facts_id(scene.facts))
    return Pairs(images, np.arange(len(dataset)), captions, np.array(ids), augment)  # pyright: ignore[reportArgumentType]


def mixture(*, sources: Sequence[Splits], weights: Sequence[float]) -> Splits:
    """Several sources (no streams) trained on together and held out one by one; for `weights` see `Mixed`."""
    parts = [source.train for source in sources]
    if len(parts) != len(weights) or not all(isinstance(part, Pairs | Mixed) for part in parts):
        raise UserError(
            f"data: expected a weight for each source, and no shards; found {len(parts)} and {len(weights)}"
        )
    validation = {name: rows for source in sources for name, rows in source.validation.items()}
    return Splits(Mixed(parts, weights), validation)  # pyright: ignore[reportArgumentType]


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


def _split(pairs: Pairs, held_out: np.ndarray, name: str) -> Splits:
    if not held_out.any() or held_out.all():
        raise UserError(f"{name}: {held_out.sum()} of {len(held_out)} rows are held out: change the validation share")
    return Splits(pairs.take(np.flatnonzero(~held_out)), {name: pairs.take(np.flatnonzero(held_out))})
