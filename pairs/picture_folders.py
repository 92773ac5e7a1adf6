"""Where pictures come from: files of a folder or of a zip archive; to train on, one picture = uint8 (3, h, w)."""

import threading
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from media.images import load_image
from utils.errors import UserError
from utils.progress_bar import progress_bar

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


OpenImage = Callable[[], Image.Image]


class Folder:
    """The files below a folder, or below a folder inside a zip: `data/photos`, `cifar10.zip`, `cifar10.zip/train`.

    Names are relative to it, with "/". A zip is opened once a thread and process: its handle cannot be shared.
    """

    def __init__(self, root: str | Path) -> None:
        root = Path(root).expanduser()
        archive = next((path for path in (root, *root.parents) if path.suffix == ".zip" and path.is_file()), None)
        if archive is None and not root.is_dir():
            raise UserError(f"{root}: no such folder or zip archive of images")
        self.root, self._archive = root, archive
        self._prefix = f"{root.relative_to(archive).as_posix()}/" if archive and archive != root else ""
        self._local = threading.local()

    def names(self) -> list[str]:
        """All image files, sorted."""
        if self._archive:
            found = [
                name.removeprefix(self._prefix) for name in self._zip().namelist() if name.startswith(self._prefix)
            ]
        else:
            found = [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()]
        return sorted(name for name in found if name.lower().endswith(IMAGE_ENDINGS))

    def has(self, name: str) -> bool:
        return self._prefix + name in self._zip().NameToInfo if self._archive else (self.root / name).is_file()

    def find(self, names: Sequence[str]) -> str | None:
        """The first of these that is there."""
        return next(filter(self.has, names), None)

    def opener(self, name: str) -> OpenImage:
        """Reads and decodes the image when it is called. MediaError names the file."""
        return partial(self._open, name)

    def _open(self, name: str) -> Image.Image:
        return load_image(self.read(name), f"{self.root}/{name}")

    def read(self, name: str) -> bytes:
        try:
            return self._zip().read(self._prefix + name) if self._archive else (self.root / name).read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.root}/{name}: the image cannot be read ({error})") from error

    def _zip(self) -> zipfile.ZipFile:
        assert self._archive is not None
        if getattr(self._local, "zip", None) is None:
            self._local.zip = zipfile.ZipFile(self._archive)
        return self._local.zip

    def __reduce__(self) -> tuple[type["Folder"], tuple[Path]]:
        return Folder, (self.root,)


class Files:
    """Pictures decoded from `folder` whenever they are asked for."""

    def __init__(self, folder: Folder, names: Sequence[str]) -> None:
        self._folder, self._names = folder, list(names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        name = self._names[index]
        return decode(self._folder.read(name), f"{self._folder.root}/{name}")


PictureList = Tensor | Sequence[Tensor] | Files  # numbered pictures, uint8 (3, h, w), 0..255, RGB


def in_memory(pictures: Files, title: str) -> PictureList:
    """Decode all pictures once and keep them: small sets would else be bound by decoding.

    Equal sizes go into one tensor, half a GB for 50,000 pictures of 64 x 64 pixels.
    """
    first = pictures[0]
    kept = torch.empty((len(pictures), *first.shape), dtype=torch.uint8)
    for i in progress_bar(range(len(pictures)), f"{title}: reading pictures", passing=True):
        picture = pictures[i]
        if picture.shape != first.shape:  # of several sizes: a list does as well
            return [*pictures]
        kept[i] = picture
    return kept


def decode(data: bytes, name: str) -> UInt8[Tensor, "3 h w"]:
    """MediaError names the file. EXIF orientation is ignored, as in the original."""
    return as_picture(load_image(data, name))


def as_picture(image: Image.Image | np.ndarray | Tensor) -> UInt8[Tensor, "3 h w"]:
    """A PIL image, an array (h, w, 3) or a tensor (3, h, w)."""
    if isinstance(image, Tensor):
        return image
    array = np.array(image.convert("RGB")) if isinstance(image, Image.Image) else image
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()
