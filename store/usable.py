"""What is worth saving: results that must never pass for a success are refused."""

import numpy as np

from store.parts import slices
from utils.errors import MediaError
from utils.types import Features


def check_usable(features: Features) -> None:
    """Raises MediaError for results that must never pass for a success: no arrays, no rows, nan or infinite.

    ValueError for arrays that are not those of one item, which is our mistake.
    """
    path = features.item.path
    if not features.arrays:
        raise MediaError(f"{path}: no features came out of it: nothing is saved")
    rows = {key: len(array) for key, array in features.arrays.items() if array.ndim > 0}
    if len(set(rows.values())) > 1:
        raise ValueError(f"{path}: arrays differ in their number of rows: {rows}")
    for key, array in features.arrays.items():
        if array.size == 0:
            raise MediaError(f"{path}: {key!r} is empty (shape {array.shape}): nothing is saved")
        if array.dtype.hasobject:
            raise ValueError(f"{path}: {key!r} is an array of Python objects, which cannot be read back safely")
        if array.dtype.kind not in "biufcSU":
            raise MediaError(f"{path}: {key!r} is an array of {array.dtype}, not of numbers or words: nothing is saved")
        if array.dtype.kind in "fc":
            _check_finite(array, f"{path}: {key!r}")


def _check_finite(array: np.ndarray, name: str) -> None:
    num_rows, num_bad, first = 0, 0, None
    for rows in slices(array):
        if not (finite := np.isfinite(rows)).all():
            first = num_rows + int(np.argwhere(~finite)[0][0]) if first is None else first
            num_bad += finite.size - int(finite.sum())
        num_rows += len(rows)
    if num_bad:
        row = f", first in row {first}" if array.ndim else ""
        raise MediaError(
            f"{name} holds {num_bad} of {array.size} values that are nan or infinite{row}: "
            "nothing is saved; try precision=fp32"
        )
