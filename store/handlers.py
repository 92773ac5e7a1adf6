"""What happens to finished features: the options of `on_extraction`. Each is a `utils.types.Handler`."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from store.forms import NPZ, NUMPY, PICKLE, XMODALER_VIDEO
from store.item_files import Form, ItemFiles, check_usable
from utils.types import Features, Item


class Print:
    """Prints every array with its maximum, mean and minimum, in the format of v-iashin/video_features."""

    saves = False

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        return False

    def __call__(self, features: Features) -> None:
        """Raises MediaError for empty or non-finite results."""
        check_usable(features)
        text = "\n".join(_shown(key, array) for key, array in features.arrays.items())
        # `tqdm.write` lifts a running progress bar out of the way; one call keeps the item's lines together.
        tqdm.write(text, file=sys.stdout)


class Save:
    """A handler that leaves files in one form; which, says the subclass."""

    saves = True
    form: Form

    def __init__(self, output_path: Path | str) -> None:
        self._files = ItemFiles(output_path, self.form)

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        return self._files.done(item, folder, settings)

    def __call__(self, features: Features) -> None:
        self._files.save(features)


class SaveNumpy(Save):
    """`<output_path>/<folder>/<item>_<key>.npy`, one for each array, then `<item>_meta.json`."""

    form = NUMPY


class SavePickle(Save):
    """The same numpy arrays as `<item>_<key>.pkl` (pickle protocol 4, readable from Python 3.4 on)."""

    form = PICKLE


class SaveNpz(Save):
    """`<item>.npz` as X-modaler reads it: `features` (n, c) is the grid, `g_feature` (1, d); texts have only that."""

    form = NPZ


class SaveXmodalerVideo(Save):
    """`<item>.npy` (t, d), as X-modaler reads videos: the global features alone."""

    form = XMODALER_VIDEO


def _shown(key: str, array: np.ndarray) -> str:
    lines = [key, str(array)]
    if array.dtype.kind in "biuf":
        largest, mean, smallest = float(array.max()), float(array.mean()), float(array.min())
        lines.append(f"max: {largest:.8f}; mean: {mean:.8f}; min: {smallest:.8f}")
    return "\n".join([*lines, ""])
