"""Photos in a folder for each class, captioned by templates: what a captioner learns beside drawn scenes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pairs.annotations import AnnotatedImage, words_of
from pairs.picture_folders import Files, Folder
from utils.errors import UserError, check_count, given_path


@dataclass(frozen=True)
class PhotoSet:
    """`count` photos of one size, for training, from a folder or zip with a folder for each class.

    A photo's captions are the `templates` with its class and the article that goes with it.
    """

    path: str | None
    count: int
    templates: Sequence[str]

    def choose(self, num_held_out: int, seed: int) -> "ChosenPhotos":
        """The photos to train on, then those held out. UserError where there are not so many."""
        check_count("photos.count", self.count)
        folder = Folder(given_path("photos.path", self.path, "a folder or zip with a folder of photos for each class"))
        if len(names := folder.names()) < self.count + num_held_out:
            raise UserError(
                f"photos.path={folder.root}: expected {self.count} photos and {num_held_out} to hold out "
                f"(caption_data.photos.count, validation_count), found {len(names)}"
            )
        order = np.random.default_rng(seed).permutation(len(names))[: self.count + num_held_out]
        return ChosenPhotos(folder, [names[number] for number in order], self)


@dataclass(frozen=True)
class ChosenPhotos:
    folder: Folder
    names: list[str]
    photo_set: PhotoSet

    def pictures(self) -> list[Tensor]:
        """uint8 (3, m, m) each."""
        files = Files(self.folder, self.names)
        return [files[number] for number in range(len(files))]

    def annotated(self) -> list[AnnotatedImage]:
        splits = ["train"] * self.photo_set.count + ["test"] * (len(self.names) - self.photo_set.count)
        return [self._annotated(name, split) for name, split in zip(self.names, splits, strict=True)]

    def _annotated(self, name: str, split: str) -> AnnotatedImage:
        label = Path(name).parent.name.replace("_", " ")
        article = "an" if label[:1] in tuple("aeiou") else "a"
        texts = [template.format(article=article, label=label) for template in self.photo_set.templates]
        return AnnotatedImage(name, split, name, [words_of(text) for text in texts])
