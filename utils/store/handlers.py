"""What happens to finished features: the options of `on_extraction`. Each is a `utils.types.Handler`."""

import pickle
import sys
import tokenize
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.store.item_files import Form, ItemFiles, Writable, check_usable, same_bytes
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


class SaveNumpy:
    """`<output_path>/<folder>/<item>_<key>.npy`, one for each array, then `<item>_meta.json`."""

    saves = True

    def __init__(self, output_path: Path | str) -> None:
        self._files = ItemFiles(output_path, NUMPY)

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        return self._files.done(item, folder, settings)

    def __call__(self, features: Features) -> None:
        self._files.save(features)


class SavePickle:
    """The same numpy arrays as `<item>_<key>.pkl` (pickle protocol 4, readable from Python 3.4 on)."""

    saves = True

    def __init__(self, output_path: Path | str) -> None:
        self._files = ItemFiles(output_path, PICKLE)

    def done(self, item: Item, folder: str, settings: dict[str, Any]) -> bool:
        return self._files.done(item, folder, settings)

    def __call__(self, features: Features) -> None:
        self._files.save(features)


def _shown(key: str, array: np.ndarray) -> str:
    lines = [key, str(array)]
    if array.dtype.kind in "biuf":
        largest, mean, smallest = float(array.max()), float(array.mean()), float(array.min())
        lines.append(f"max: {largest:.8f}; mean: {mean:.8f}; min: {smallest:.8f}")
    return "\n".join([*lines, ""])


def _write_numpy(file: Writable, array: np.ndarray) -> None:
    np.save(file, array, allow_pickle=False)


def _numpy_intact(path: Path, facts: dict[str, Any]) -> bool:
    """Size, shape and dtype; the values stay on the disk, so that 100,000 finished items are checked quickly."""
    try:
        if path.stat().st_size != facts.get("bytes"):
            return False
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, TypeError, SyntaxError, OverflowError, tokenize.TokenError):
        return False  # all of these come out of damaged headers
    return list(array.shape) == facts.get("shape") and str(array.dtype) == facts.get("dtype")


def _write_pickle(file: Writable, array: np.ndarray) -> None:
    pickle.dump(array, file, protocol=4)


# A pickle is recognised by its checksum and never opened: opening one runs whatever is in it.
NUMPY = Form(".npy", _write_numpy, _numpy_intact)
PICKLE = Form(".pkl", _write_pickle, same_bytes)
