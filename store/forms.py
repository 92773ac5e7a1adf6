"""The forms that features are stored in, and read back from. `HANDLERS` of `handlers` and the converter share them."""

import io
import pickle
import tokenize
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from store.item_files import Content, Form, Writable, same_bytes
from utils.errors import MediaError
from utils.types import Features

GRID = "grid"
_PICKLED = {"numpy._core.multiarray", "numpy._core.numeric", "numpy.core.multiarray", "numpy.core.numeric", "numpy"}


def _one_file_each(suffix: str, write: Callable[[Writable, np.ndarray], None]) -> Callable[[Features], dict]:
    """`_<key><suffix>` for every array."""

    def files(features: Features) -> dict[str, Content]:
        return {
            f"_{key}{suffix}": Content(lambda file, array=array: write(file, array), {"key": key, **_facts(array)})
            for key, array in features.arrays.items()
        }

    return files


def _facts(array: np.ndarray) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def _write_numpy(file: Writable, array: np.ndarray) -> None:
    np.save(file, array, allow_pickle=False)


def _write_pickle(file: Writable, array: np.ndarray) -> None:
    pickle.dump(array, file, protocol=4)


def numpy_intact(path: Path, facts: dict[str, Any]) -> bool:
    """Size, shape and dtype; the values stay on the disk, so that 100,000 finished items are checked quickly."""
    try:
        if path.stat().st_size != facts.get("bytes"):
            return False
        array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, TypeError, SyntaxError, OverflowError, tokenize.TokenError):
        return False  # all of these come out of damaged headers
    return list(array.shape) == facts.get("shape") and str(array.dtype) == facts.get("dtype")


def _xmodaler_files(features: Features) -> dict[str, Content]:
    """One `.npz` with the keys and shapes of X-modaler: `features` (n, c) of an image, `g_feature` (t, d).

    Videos and animations have a row for each frame in front, and their times. There is never a key `boxes`, which
    X-modaler would take for detections.
    """
    arrays = {_npz_key(features, key): (key, array) for key, array in features.arrays.items()}
    if "features" in arrays and len(arrays["features"][1]) == 1:
        key, array = arrays["features"]
        arrays["features"] = key, array[0]

    def write(file: Writable) -> None:
        buffer = io.BytesIO()  # zip archives go back to fill in sizes; what is written here only goes forward
        np.savez_compressed(buffer, **{name: array for name, (_, array) in arrays.items()})  # pyright: ignore
        file.write(buffer.getbuffer())

    inside = {name: {"key": key, **_facts(array)} for name, (key, array) in arrays.items()}
    return {".npz": Content(write, {"arrays": inside})}


def _npz_key(features: Features, key: str) -> str:
    return {features.feature_type: "g_feature", GRID: "features"}.get(key, key)


def _video_files(features: Features) -> dict[str, Content]:
    """`<item>.npy` (t, d): X-modaler's form for videos."""
    if features.feature_type not in features.arrays:
        raise MediaError(f"{features.item.path}: X-modaler's videos are global features, these are of the grid only")
    array = features.arrays[features.feature_type]
    return {".npy": Content(lambda file: _write_numpy(file, array), {"key": features.feature_type, **_facts(array)})}


# A pickle or an archive is recognised by its checksum and not opened: opening a pickle runs whatever is in it.
NUMPY = Form("numpy", _one_file_each(".npy", _write_numpy), numpy_intact)
PICKLE = Form("pickle", _one_file_each(".pkl", _write_pickle), same_bytes)
NPZ = Form("npz", _xmodaler_files, same_bytes)
XMODALER_VIDEO = Form("xmodaler_video", _video_files, numpy_intact)


def read_array(path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of one recorded file under their own keys. MediaError if it is damaged."""
    try:
        if path.suffix == ".npy":
            return {facts["key"]: np.load(path, allow_pickle=False)}
        if path.suffix == ".pkl":
            with path.open("rb") as file:
                array = _OnlyArrays(file).load()
            if not isinstance(array, np.ndarray):
                raise ValueError(f"holds {type(array).__name__}, which is no array")
            return {facts["key"]: array}
        with np.load(path, allow_pickle=False) as archive:
            return {inside["key"]: _with_rows(archive[name], inside) for name, inside in facts["arrays"].items()}
    except (OSError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise MediaError(f"{path}: damaged, cannot be read ({error})") from error


def _with_rows(array: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
    """An image's grid gets the row back that X-modaler does without."""
    return array[np.newaxis] if facts["key"] == GRID and array.ndim == 2 else array


class _OnlyArrays(pickle.Unpickler):
    """Unpickles numpy's arrays and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _PICKLED and name in ("_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"holds {module}.{name}, which is no array")
