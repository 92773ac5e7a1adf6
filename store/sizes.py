"""How much room results take on the disk, from one of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from store.files import encode
from store.forms import Form, Gathers
from store.provenance import software
from store.record import record_bytes, record_of
from utils.types import Features

_BLOCK_BYTES = 4096  # files take up whole blocks
_UNKNOWN_BYTES = 500  # of a meta file: facts of the source


@dataclass(frozen=True)
class _File:
    """So many bytes whatever its rows, and so many for each."""

    fixed: float
    per_row: float
    gathered: bool = False

    def on_disk(self, rows: np.ndarray) -> float:
        sizes = self.fixed + self.per_row * rows
        return float(sizes.sum() if self.gathered else (np.ceil(sizes / _BLOCK_BYTES) * _BLOCK_BYTES).sum())


def bytes_of(rows: Sequence[float], features: Features | None, forms: Sequence[Form]) -> tuple[int, int]:
    """What items with so many rows take on the disk, and the most that they take on the way there.

    `features` is one of them, with at least a row. Forms that gather their items in one file hold them twice at last.
    """
    if features is None or not forms:
        return 0, 0
    files, counts = _files(features, forms), np.ceil(np.array(rows, dtype=np.float64))
    final = sum(each.on_disk(counts) for each in files)
    own = sum(_File(each.fixed, each.per_row).on_disk(counts) for each in files if each.gathered)
    return round(final), round(final + own)


def _files(features: Features, forms: Sequence[Form]) -> list[_File]:
    num_rows = max((len(array) for array in features.arrays.values() if array.ndim), default=1)
    found: list[_File] = []
    listed: dict[str, dict[str, Any]] = {}
    for form in forms:
        for new in form.write(features):
            written = io.BytesIO()
            new.write(written)
            num_bytes = written.getbuffer().nbytes
            inside = new.facts.get("arrays", {"": new.facts} if "key" in new.facts else {})
            keys = [facts.get("key", name) for name, facts in inside.items()]
            arrays = [array for key in keys if (array := features.arrays[key]).ndim]
            per_row = sum(array.nbytes / num_rows for array in arrays) if inside else num_bytes / num_rows
            fixed = max(0.0, num_bytes - per_row * num_rows)
            listed[f"{features.item.name}{new.ending}"] = new.facts | {
                "form": form.name,
                "bytes": 0,
                "sha256": "0" * 64,
            }
            found.append(_File(fixed, per_row, isinstance(form, Gathers)))
    if features.predictions:
        found.append(_File(0, len(encode(features.predictions, indent=1)) / num_rows))
    noted = replace(features, provenance={"software": software()} | features.provenance)
    meta = len(record_bytes(record_of(noted, listed))) + _UNKNOWN_BYTES
    return [*found, _File(meta, 0, all(each.gathered for each in found))]
