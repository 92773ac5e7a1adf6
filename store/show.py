"""`on_extraction=print`: features on the screen."""

import sys
from collections.abc import Iterable

import numpy as np
from tqdm import tqdm

from store.usable import check_usable
from utils.streams import stdout_is_gone
from utils.types import Features, Show


def show_all(shows: Iterable[Show], features: Features, *, saving: bool) -> None:
    """As long as somebody reads it: see `utils.streams.stdout_is_gone`."""
    try:
        for each in shows:
            each.show(features)
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:  # a file's, of a show that writes one
            raise
        stdout_is_gone(error, saving=saving)


class Print:
    """Prints every array with its maximum, mean and minimum, in the format of v-iashin/video_features."""

    def show(self, features: Features) -> None:
        """Raises MediaError for empty or non-finite results."""
        check_usable(features)
        text = "\n".join(_shown(key, array) for key, array in features.arrays.items())
        # `tqdm.write` lifts a running progress bar out of the way; one call keeps the item's lines together.
        tqdm.write(text, file=sys.stdout)


def _shown(key: str, array: np.ndarray) -> str:
    lines = [key, str(array)]
    if array.dtype.kind in "biuf":
        largest, mean, smallest = float(array.max()), float(array.mean()), float(array.min())
        lines.append(f"max: {largest:.8f}; mean: {mean:.8f}; min: {smallest:.8f}")
    return "\n".join([*lines, ""])
