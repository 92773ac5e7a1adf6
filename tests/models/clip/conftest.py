import tarfile
from pathlib import Path

import pytest
import torch

from tests.helpers.shared_data import PARITY


@pytest.fixture(scope="session")
def wrappers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of `tiny_vit.pt` in the layouts of other tools."""
    folder = tmp_path_factory.mktemp("wrappers")
    with tarfile.open(PARITY / "tiny_vit_trained_wrappers.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "tiny_vit_trained_wrappers"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
