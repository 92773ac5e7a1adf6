"""Pictures with their captions, to be found by each other (config group `pairs`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from media.caption_files import CaptionedFile, read_captions_csv, read_karpathy
from pairs.picture_folders import Folder, OpenImage
from pairs.scenes.scenes import Scenes
from utils.errors import UserError, check_count, given_path


@dataclass(frozen=True)
class CaptionedImages:
    """`captions[k]`, one or more, belong to the picture that `images[k]` opens. `data` says where they come from."""

    images: Sequence[OpenImage]
    captions: list[list[str]]
    data: dict[str, Any]

    def __post_init__(self) -> None:
        if len(self.images) != len(self.captions) or not all(self.captions):
            raise ValueError(f"{len(self.images)} images, {len(self.captions)} lists of captions, none may be empty")


def karpathy_images(
    *, captions_path: str | None, image_folder: str | None, split: str | None = "test"
) -> CaptionedImages:
    """Karpathy's json (`images`: filename, filepath, split, sentences: raw). `split=null` takes all images."""
    path = given_path("captions_path", captions_path, "Karpathy's json")
    return _of_split(read_karpathy(path, key="captions_path"), path, image_folder, split)


def csv_images(*, captions_path: str | None, image_folder: str | None, split: str | None = "test") -> CaptionedImages:
    """`image,caption` with a header line, one row a caption; rows that name the same image belong together.

    `split` chooses where the file has that column.
    """
    path = given_path("captions_path", captions_path, "a csv file with image,caption")
    listed = read_captions_csv(path, key="captions_path")
    return _of_split(listed, path, image_folder, split if any(image.split for image in listed) else None)


def _of_split(
    listed: Sequence[CaptionedFile], path: Path, image_folder: str | None, split: str | None
) -> CaptionedImages:
    chosen = [image for image in listed if split in (None, image.split)]
    if not chosen:
        splits = ", ".join(sorted({image.split for image in listed}))
        raise UserError(f"split={split}: no such images in {path}; its splits: {splits}; split=null takes all")
    return _from_files(chosen, {"captions_path": str(path), "image_folder": image_folder, "split": split})


def scene_images(
    *, num_scenes: int = 200, seed: int = 100, resolution: int = 64, split: str = "test", captions_per_image: int = 1
) -> CaptionedImages:
    """Drawn scenes with different facts. With the default `split`, no training scene shows the same combination."""
    check_count("captions_per_image", captions_per_image)
    drawn = Scenes(num_scenes, seed=seed, size_px=resolution, split=split, unique=True)  # pyright: ignore[reportArgumentType]
    return CaptionedImages(
        images=[partial(_scene_image, drawn, k) for k in range(num_scenes)],
        captions=[drawn.scene(k).captions[:captions_per_image] for k in range(num_scenes)],
        data={"scenes": num_scenes, "seed": seed, "resolution_px": resolution, "split": split},
    )


def _scene_image(drawn: Scenes, index: int) -> Image.Image:
    return Image.fromarray(drawn.scene(index).image)


def _from_files(listed: Sequence[CaptionedFile], data: dict[str, Any]) -> CaptionedImages:
    folder = Folder(given_path("image_folder", data["image_folder"], "the images' folder"))
    files = [folder.find(image.files) for image in listed]
    missing = [image.files[0] for image, file in zip(listed, files, strict=True) if file is None]
    if missing:
        raise UserError(
            f"image_folder={folder.root}: {len(missing)} of {len(listed)} images are missing: {missing[0]} ..."
        )
    silent = [image.files[0] for image in listed if not image.captions]
    if silent:
        raise UserError(
            f"captions_path={data['captions_path']}: {len(silent)} images have no captions: {silent[0]} ..."
        )
    return CaptionedImages(
        images=[folder.opener(file) for file in files if file],
        captions=[image.texts for image in listed],
        data=data | {"image_folder": str(folder.root)},
    )
