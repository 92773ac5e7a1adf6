"""Which tests need data from outside, and shapes that are checked at every call."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

from tests.helpers.shapes import checked
from tests.helpers.shared_data import ROOT, SHARED, VIT_B_32

# Before PyTorch is imported: OpenMP's threads, which otherwise wait by spinning, leave the cores to other processes.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers or timm: tests fetch no weights

# Before any of them is imported: in modules that state shapes, arguments and results are held to them.
WITH_SHAPES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("apps", "pairs", "evaluation", "extraction", "media", "models", "store", "utils")
    for path in (ROOT / package).rglob("*.py")
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
install_import_hook(WITH_SHAPES, f"{checked.__module__}.{checked.__qualname__}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests only where what they need is absent; where it is there, they run, in CI too."""
    absent = {
        "shared": None if SHARED.is_dir() else "needs the reference data folder ../shared",
        "weights": None if VIT_B_32.is_file() else "needs OpenAI's weights: ~/.cache/clip/ViT-B-32.pt",
    }
    for item in items:
        for marker, reason in absent.items():
            if reason and marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `tiny_clip.TINY`."""
    from tests.helpers.tiny_clip import write_tiny_checkpoint  # late: it imports `models`

    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture(autouse=True, scope="session")
def _signals_stay_pytests() -> Iterator[None]:
    """Tests that run main.py in this process must not make it answer signals as the program does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("utils.signals.listen", lambda: None)
        yield
