"""Writes one file of a form: whole or not at all, its size and checksum noted on the way."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from store.files import atomic_write
from store.forms import NewFile
from store.parts import CHUNK_BYTES, let_go
from utils.types import Features


class _Watched:
    """A file that counts what is written to it, and lets go of the mapped arrays that this comes from."""

    def __init__(self, file: BinaryIO, arrays: Sequence[np.ndarray], sha256: Any = None) -> None:
        self._file, self._arrays, self.sha256 = file, arrays, sha256
        self.num_bytes = 0

    def write(self, data: Any, /) -> int:
        if self.sha256 is not None:  # no second pass over the file, no copy in memory
            self.sha256.update(data)
        before, self.num_bytes = self.num_bytes, self.num_bytes + memoryview(data).nbytes
        if self.num_bytes // CHUNK_BYTES > before // CHUNK_BYTES:
            let_go(self._arrays)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def write_file(path: Path, new: NewFile, features: Features) -> dict[str, Any]:
    """What is noted of it: `new.facts`, bytes, sha256. UserError where it cannot be written."""
    arrays = list(features.arrays.values())
    with atomic_write(path) as file:
        if new.seeks:
            new.write(_Watched(file, arrays))
            file.flush()
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256")  # pyright: ignore[reportArgumentType]
            num_bytes = file.tell()
        else:
            watched = _Watched(file, arrays, hashlib.sha256())
            new.write(watched)
            sha256, num_bytes = watched.sha256, watched.num_bytes
    return new.facts | {"bytes": num_bytes, "sha256": sha256.hexdigest()}
