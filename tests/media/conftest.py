from pathlib import Path

import pytest

from tests.helpers.index_clips import make_clip


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4")
