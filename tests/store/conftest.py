"""Features to store."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.types import Features, Item

FOLDER = "clip/ViT-B_32"
SETTINGS = {"model": "ViT-B/32", "sampling": {"fps": 5, "range": (0, None)}, "paths": Path("x")}


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Features]:
    """Features of a source file below `tmp_path`."""

    def made(name: str = "dog/000", **changes: Any) -> Features:
        source = tmp_path / "in" / f"{name}.mp4"
        source.parent.mkdir(parents=True, exist_ok=True)
        if not source.exists():
            source.write_bytes(b"video")
        arrays = {
            "clip": np.linspace(-1, 1, 24, dtype=np.float32).reshape(3, 8),
            "fps": np.array(29.97),
            "timestamps_ms": np.array([0.0, 40.0, 80.0]),
        }
        values = {"arrays": arrays, "settings": SETTINGS, "provenance": {"tool": "1"}} | changes
        return Features(item=Item(source, name), folder=FOLDER, **values)

    return made
