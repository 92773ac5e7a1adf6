"""The licence of weights: what the card beside them says, and where results say it."""

from pathlib import Path

import pytest

from models.licence import licence_beside
from models.load import ModelChoice, load
from tests.helpers.tiny_clip import write_tiny_checkpoint

CARDS = {
    "---\nlicense: apache-2.0\n---\n# A model": "apache-2.0",
    "---\nlicense: other\nlicense_name: apple-amlr\nlicense_link: LICENSE\n---\n": "apple-amlr",
    "---\nlicense: other\n---\n": "other",
    "---\nlicense: [mit, cc-by-4.0]\n---\n": "mit, cc-by-4.0",
    "---\nlicense:\n  a\n  b\n---\n": "a b",
    "---\ntags: [x]\n---\n": None,
    "---\n: [\n---\n": None,
    "---\n- 5\n---\n": None,
    "# Only a title": None,
    "": None,
}


@pytest.mark.parametrize("text", CARDS)
def test_the_card_says_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence_beside(tmp_path / "model.safetensors") == licence_beside(tmp_path) == CARDS[text]


def test_a_card_that_is_none_says_nothing(tmp_path: Path) -> None:
    assert licence_beside(tmp_path) is None
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\n---\n")
    assert licence_beside(tmp_path) is None
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert licence_beside(tmp_path) is None


def test_models_bring_it_along(tmp_path: Path) -> None:
    """How it gets into results: `tests/test_main.py`."""
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    weights = write_tiny_checkpoint(tmp_path / "model.pt")
    assert load(ModelChoice(model_name=str(weights), device="cpu")).licence == "cc-by-nc-4.0"
    assert load(ModelChoice(model_name="tiny", device="cpu")).licence == "MIT (this project)"
