"""The small checkpoints and reference numbers that come with the repository (tests/golden/SOURCES.md)."""

import functools
import lzma
from pathlib import Path

import numpy as np

from tests.helpers.shared_data import ROOT

GOLDEN = ROOT / "tests" / "golden"
PHOTOS = ROOT / "sample"


@functools.cache
def golden_numbers(name: str) -> dict[str, np.ndarray]:
    """Of `clip.npz` or `grid.npz`."""
    with np.load(GOLDEN / name) as arrays:
        return dict(arrays)


def golden_image(name: str) -> Path:
    return GOLDEN / name if (GOLDEN / name).is_file() else PHOTOS / name


def unpack_checkpoint(kind: str, folder: Path) -> Path:
    """`vit` or `rn`: a plain state dict in half precision, as OpenAI's code saves it."""
    path = folder / f"tiny_{kind}.pt"
    path.write_bytes(lzma.decompress((GOLDEN / f"{path.name}.xz").read_bytes()))
    return path
