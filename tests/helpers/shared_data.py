"""Where data and weights are that do not come with the repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TORCH_ZOO_SHARED", ROOT.parent / "shared"))
PARITY = SHARED / "parity"
VIT_B_32 = Path(os.environ.get("TORCH_ZOO_VIT_B_32", "~/.cache/clip/ViT-B-32.pt")).expanduser()
LISTED = Path(__file__).with_name("shared_files.txt")  # so that a test for each of them shows where they are absent


def shared_files(folder: str) -> list[str]:
    """The files below a folder of ../shared, whether it is there or not; relative to that folder."""
    names = LISTED.read_text(encoding="utf-8").split("\n")
    return [name.removeprefix(f"{folder}/") for name in names if name.startswith(f"{folder}/")]
