"""Where data and weights are that do not come with the repository."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TORCH_ZOO_SHARED", ROOT.parent / "shared"))  # set: as if it were there
PARITY = SHARED / "parity"
VIT_B_32 = Path(os.environ.get("TORCH_ZOO_VIT_B_32", "~/.cache/clip/ViT-B-32.pt")).expanduser()
