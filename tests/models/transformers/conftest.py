"""Each kind of model once for these tests; none of them changes it."""

from pathlib import Path

import pytest

from tests.helpers.tiny_transformers import KINDS, write_transformers_model


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("transformers")
    return {kind: write_transformers_model(home / f"small-{kind}", kind) for kind in KINDS}
