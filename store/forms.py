"""The forms that features are saved in: what a form is, and those that give every item files of its own."""

import math
import pickle
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from struct import pack
from typing import Any, Protocol, runtime_checkable

import numpy as np

from store.parts import CHUNK_BYTES, slices
from store.record import Record
from utils.errors import MediaError
from utils.types import Features

GRID = "grid"
_MOST_OF_HEADER = 65_536  # bytes before the values of a .npy file
_PICKLED = {"numpy._core.multiarray", "numpy._core.numeric", "numpy.core.multiarray", "numpy.core.numeric", "numpy"}


class Writable(Protocol):
    def write(self, data: Any, /) -> Any: ...


@dataclass(frozen=True)
class NewFile:
    """One file of an item, to be written as `<item><ending>`; `facts` are noted with it, for who reads it back."""

    ending: str  # "_clip.npy"
    write: Callable[[Any], Any]  # from the first byte to the last (`Writable`), unless it `seeks` (a binary file)
    facts: dict[str, Any] = field(default_factory=dict)  # plain JSON; see `array_facts`
    seeks: bool = False  # goes back and forth: the file is then read once more, for its checksum


@runtime_checkable
class Form(Protocol):
    """One way to save features, an option of `on_extraction`. All else (names, whole files, resume) is the store's."""

    name: str  # stands beside each of its files in the item's meta file

    def write(self, features: Features) -> Iterable[NewFile]:
        """What to write. Raises MediaError where the form has no place for these features."""
        ...

    def read(self, path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
        """The arrays of one of these files by their keys. May raise anything for a file that is damaged."""
        ...


@runtime_checkable
class Gathers(Form, Protocol):
    """A form whose items, files of their own at first, end up in one file a folder when a run ends; `SaveHdf5`."""

    ending: str  # of an item's own file
    gathered_ending: str  # `<folder><gathered_ending>` is the one file

    def record(self, archive: Path, name: str) -> Record | None:
        """What the one file says of an item; None where it does not hold it. UserError if it cannot be read."""
        ...

    def records(self, archive: Path, *, most: int) -> list[Record]:
        """The first that the one file holds; none where it is not there. UserError if it cannot be read."""
        ...

    def intact(self, archive: Path, record: Record) -> bool: ...

    def items(self, archive: Path) -> Iterator[Features | MediaError]: ...

    def gather(
        self, archive: Path, folder: str, items: Iterable[tuple[str, Features | MediaError]]
    ) -> dict[str, MediaError]:
        """Put these items, by name, into the one file, which is replaced as a whole; those that cannot be, and why.

        UserError where it cannot be written.
        """
        ...


def array_facts(array: np.ndarray) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


class SaveNumpy:
    """`<output_path>/<folder>/<item>_<key>.npy`, one for each array."""

    name = "numpy"

    def write(self, features: Features) -> Iterator[NewFile]:
        for key, array in features.arrays.items():
            yield NewFile(
                f"_{key}.npy", partial(np.save, arr=array, allow_pickle=False), {"key": key, **array_facts(array)}
            )

    def read(self, path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
        return {facts["key"]: np.load(path, allow_pickle=False)}


class SavePickle:
    """The same numpy arrays as `<item>_<key>.pkl` (pickle protocol 4, readable from Python 3.4 on)."""

    name = "pickle"

    def write(self, features: Features) -> Iterator[NewFile]:
        for key, array in features.arrays.items():
            yield NewFile(f"_{key}.pkl", partial(_pickle, array), {"key": key, **array_facts(array)})

    def read(self, path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
        """Refuses everything but arrays: opening a pickle otherwise runs whatever is in it."""
        with path.open("rb") as file:
            array = _OnlyArrays(file).load()
        if not isinstance(array, np.ndarray):
            raise ValueError(f"holds {type(array).__name__}, which is no array")
        if list(array.shape) != facts.get("shape", list(array.shape)):
            raise ValueError(f"holds an array {array.shape}, not {facts['shape']}")
        return {facts["key"]: array}


def _pickle(array: np.ndarray, file: Writable) -> None:
    """As `pickle.dump` with protocol 4, which holds all bytes of an array in memory once more."""
    if array.nbytes <= CHUNK_BYTES or not array.flags.c_contiguous:
        pickle.dump(array, file, protocol=4)
        return
    stand_in = b"\xa7" * 2**17  # from 2**16 bytes on they stand alone between two frames
    head, tail = pickle.dumps(_Reduced(array, stand_in), protocol=4).split(stand_in)
    is_long = array.nbytes >= 2**32
    opcode = pickle.BINBYTES8 + pack("<Q", array.nbytes) if is_long else pickle.BINBYTES + pack("<I", array.nbytes)
    file.write(head[: -len(pickle.BINBYTES + pack("<I", 0))] + opcode)
    for rows in slices(array):
        file.write(rows.data)
    file.write(tail)


@dataclass(frozen=True)
class _Reduced:
    """Is pickled as an array whose bytes are `data`."""

    array: np.ndarray
    data: bytes

    def __reduce__(self) -> tuple[Any, ...]:
        build, arguments, state = self.array[:0].__reduce__()  # pyright: ignore[reportGeneralTypeIssues]
        version, _, dtype, is_fortran, _ = state
        return build, arguments, (version, self.array.shape, dtype, is_fortran, self.data)


class SaveNpz:
    """`<item>.npz` as X-modaler reads it: `features` (n, c) is an image's grid, `g_feature` (t, d) the global features.

    Videos and animations have a row for each frame in front, and their times. There is never a key `boxes`, which
    X-modaler would take for detections.
    """

    name = "npz"

    def write(self, features: Features) -> Iterator[NewFile]:
        names = {features.feature_type: "g_feature", GRID: "features"}
        keys = {names.get(key, key): key for key in features.arrays}
        arrays = {name: features.arrays[key] for name, key in keys.items()}
        if "features" in arrays and len(arrays["features"]) == 1:
            arrays["features"] = arrays["features"][0]

        inside = {name: {"key": keys[name], **array_facts(array)} for name, array in arrays.items()}
        # Zip archives go back to fill in sizes.
        yield NewFile(".npz", partial(np.savez_compressed, **arrays), {"arrays": inside}, seeks=True)

    def read(self, path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
        with np.load(path, allow_pickle=False) as archive:
            for name, inside in facts["arrays"].items():  # before anything is unpacked: a bomb is small on the disk
                array_bytes = math.prod(inside["shape"]) * np.dtype(inside["dtype"]).itemsize
                if not 0 <= archive.zip.getinfo(f"{name}.npy").file_size - array_bytes <= _MOST_OF_HEADER:
                    raise ValueError(f"{name} is larger or smaller than its meta file says")
            found = {inside["key"]: archive[name] for name, inside in facts["arrays"].items()}
        if GRID in found and found[GRID].ndim == 2:  # an image's, which X-modaler has without the row
            found[GRID] = found[GRID][np.newaxis]
        return found


class SaveXmodalerVideo:
    """`<item>.npy` (t, d), as X-modaler reads videos: the global features alone."""

    name = "xmodaler_video"

    def write(self, features: Features) -> Iterator[NewFile]:
        key = features.feature_type
        if key not in features.arrays:
            raise MediaError(
                f"{features.item.path}: X-modaler's videos are global features, these are of the grid only"
            )
        array = features.arrays[key]
        facts = {"key": key, **array_facts(array), "left_out": [other for other in features.arrays if other != key]}
        yield NewFile(".npy", partial(np.save, arr=array, allow_pickle=False), facts)

    def read(self, path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
        if facts["left_out"]:
            raise ValueError(f"this form left out {', '.join(facts['left_out'])}")
        return {facts["key"]: np.load(path, allow_pickle=False)}


class _OnlyArrays(pickle.Unpickler):
    """Unpickles numpy's arrays and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        if module in _PICKLED and name in ("_reconstruct", "ndarray", "dtype", "_frombuffer", "scalar"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"holds {module}.{name}, which is no array")
