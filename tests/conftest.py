"""Where the reference data is, which tests need it, and shapes that are checked at every call."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
VIT_B_32 = Path(os.environ.get("TORCH_ZOO_VIT_B_32", "~/.cache/clip/ViT-B-32.pt")).expanduser()

# Before any of them is imported: modules that state shapes get their annotations checked.
WITH_SHAPES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("models", "utils")
    for path in (ROOT / package).rglob("*.py")
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
]
install_import_hook(WITH_SHAPES, "beartype.beartype")


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
