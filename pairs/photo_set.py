"""Photos in a folder for each class, captioned by templates: what a captioner learns beside drawn scenes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pairs.annotations import AnnotatedImage, in_words
from pairs.picture_folders import Files, Folder
from utils.errors import UserError, check_count, given_path


def captioned_photos(
    num_held_out: int, seed: int, *, path: str | None, count: int, templates: Sequence[str]
) -> tuple[list[AnnotatedImage], Files]:
    """`count` photos of one size to train on, then those held out, from a folder or zip with a folder for each class.

    A photo's captions are the `templates` with its class and the article that goes with it. UserError where there are
    not so many.
    """
    check_count("photos.count", count)
    folder = Folder(given_path("photos.path", path, "a folder or zip with a folder of photos for each class"))
    if len(names := folder.names()) < count + num_held_out:
        raise UserError(
            f"photos.path={folder.root}: expected {count} photos and {num_held_out} to hold out "
            f"(caption_data.photos.count, validation_count), found {len(names)}"
        )
    chosen = [names[number] for number in np.random.default_rng(seed).permutation(len(names))[: count + num_held_out]]
    images = []
    for number, name in enumerate(chosen):
        label = Path(name).parent.name.replace("_", " ")
        article = "an" if label[:1] in tuple("aeiou") else "a"
        captions = tuple(in_words(template.format(article=article, label=label)) for template in templates)
        images.append(AnnotatedImage(name, "train" if number < count else "test", name, captions))
    return images, Files(folder, chosen)
