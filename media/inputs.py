"""Everything a run works on, by kind of input."""

import os
from dataclasses import dataclass

from media.files import find_media
from media.sharding import select
from media.texts import find_texts
from utils.errors import UserError
from utils.types import Item

Paths = str | os.PathLike[str] | list[str] | None
PICTURE_KEYS = ("video_paths", "file_with_video_paths", "image_paths", "file_with_image_paths")
TEXT_KEYS = ("texts", "file_with_texts", "annotations")


@dataclass(frozen=True)
class Inputs:
    """Items by kind ("video", "image", "text"), in the order in which they are worked on."""

    items: dict[str, list[Item]]

    def __len__(self) -> int:
        return sum(map(len, self.items.values()))


def find_inputs(
    *,
    video_paths: Paths = None,
    file_with_video_paths: str | os.PathLike[str] | None = None,
    image_paths: Paths = None,
    file_with_image_paths: str | os.PathLike[str] | None = None,
    image_dir: str | os.PathLike[str] | None = None,
    id_mode: str = "stem",
    texts: str | list[str] | None = None,
    file_with_texts: str | os.PathLike[str] | None = None,
    annotations: str | os.PathLike[str] | None = None,
    shard: str | None = None,
) -> Inputs:
    """The items of a run; with `shard="i/n"` every n-th of them from the i-th on. UserError where there are none."""
    if all(given is None for given in (video_paths, file_with_video_paths, image_paths, file_with_image_paths)) and all(
        given is None for given in (texts, file_with_texts, annotations)
    ):
        raise UserError(
            f"nothing to work on: expected at least one of {', '.join(PICTURE_KEYS)} "
            f"(for features also {', '.join(TEXT_KEYS)})"
        )
    videos, images = find_media(
        video_paths=video_paths,
        file_with_video_paths=file_with_video_paths,
        image_paths=image_paths,
        file_with_image_paths=file_with_image_paths,
        image_dir=image_dir,
        id_mode=id_mode,
    )
    found = {"video": videos, "image": images, "text": find_texts(texts, file_with_texts, annotations)}
    return Inputs({kind: list(select(items, shard)) for kind, items in found.items() if items})
