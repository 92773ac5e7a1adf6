"""`import clip` from the project's root: what tutorials of openai/CLIP, its README, its test and its notebooks do.

Their own files were run against it once, too; here are their steps, on checkpoints that come with the project.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

import clip
from models.clip.hub_towers import DistilBertTower
from models.clip.mixer import TextMixer
from models.clip.model import CLIP
from models.clip.text import TextTransformer
from models.clip.wordpiece import SPECIAL
from tests.helpers.golden import golden_image, unpack_checkpoint
from tests.helpers.shared_data import PARITY, ROOT
from tests.helpers.tiny_clip import tiny_model
from utils.errors import UserError

KINDS = ["cat", "rocket", "cup of coffee"]
TEMPLATES = ["a photo of a {}.", "a blurry photo of the {}.", "a drawing of a {}."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(params=["vit", "rn", pytest.param("jit archive", marks=pytest.mark.shared)])
def checkpoint(request: pytest.FixtureRequest, folder: Path) -> Path:
    return PARITY / "tiny_vit_jit.pt" if request.param == "jit archive" else unpack_checkpoint(request.param, folder)


def probabilities(model: CLIP, preprocess, name: str, texts: list[str]) -> np.ndarray:
    """Of the texts for one picture: the steps of the original's README and of its test."""
    image = preprocess(Image.open(golden_image(name))).unsqueeze(0).to("cpu")
    with torch.no_grad():
        logits, _ = model(image, clip.tokenize(texts).to("cpu"))
    return logits.softmax(dim=-1).cpu().numpy()


def test_it_is_the_projects_own() -> None:
    assert clip.__file__ == str(ROOT / "clip.py")
    assert {"available_models", "load", "tokenize"} <= set(clip.__all__)


def test_both_ways_to_load_agree(checkpoint: Path) -> None:
    """What `tests/test_consistency.py` of the original asks for, and more closely: both are the ordinary module."""
    as_archive, preprocess = clip.load(str(checkpoint), device="cpu", jit=True)
    as_module, _ = clip.load(str(checkpoint), device="cpu", jit=False)
    texts = ["a diagram", "a dog", "a cat"]
    found, wanted = (probabilities(model, preprocess, "cat.jpg", texts) for model in (as_archive, as_module))
    assert found.shape == (1, 3)
    assert np.ptp(found) > 1e-3  # not the same for every text
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert as_archive.state_dict().keys() == as_module.state_dict().keys()


class Photos(Dataset):
    """As torchvision's datasets take the transform that `load` gives."""

    def __init__(self, transform) -> None:
        self.names, self.transform = ["cat.jpg", "rocket.jpg", "coffee.jpg"], transform

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(ROOT / "sample" / self.names[index])), index


def test_the_notebooks_zero_shot_classifier() -> None:
    """Prompt ensembles, a DataLoader with the transform, top-1 and top-k; the embedded model knows the cat."""
    model, preprocess = clip.load("tiny", device="cpu")
    columns = []
    with torch.no_grad():
        for kind in KINDS:
            rows = model.encode_text(clip.tokenize([template.format(kind) for template in TEMPLATES]))
            rows /= rows.norm(dim=-1, keepdim=True)
            mean = rows.mean(dim=0)
            columns.append(mean / mean.norm())
        classifier = torch.stack(columns, dim=1)
        right = 0
        for images, labels in DataLoader(Photos(preprocess), batch_size=1):
            features = model.encode_image(images)
            features /= features.norm(dim=-1, keepdim=True)
            best = (100.0 * features @ classifier).topk(1, 1, True, True).indices.t()
            right += int((best.eq(labels.view(1, -1)) & (labels == 0)).sum())
    assert right == 1  # the cat: of rockets and coffee the small model knows nothing


@pytest.mark.parametrize(
    "tower",
    [
        pytest.param(lambda n: TextTransformer(context_length=n, width=64, layers=1, embed_dim=16), id="transformer"),
        pytest.param(lambda n: TextMixer(context_length=n, width=64, layers=1, embed_dim=16), id="mixer"),
    ],
)
@pytest.mark.parametrize("length", [12, 100])
def test_tokens_of_openais_width_for_any_context_length(tower, length: int) -> None:
    model = CLIP(tiny_model().visual, tower(length))
    model.text.initialize()
    texts = ["a cat", "a photo of a rocket"]
    assert clip.tokenize(texts).shape == (2, 77)
    torch.testing.assert_close(model.encode_text(clip.tokenize(texts)), model.encode_text(model.tokenize(texts)))
    if length < 77:
        with pytest.raises(UserError, match=r"more than 12.*use model\.tokenize\(texts, truncate=True\)"):
            model.encode_text(clip.tokenize("a very long tale of cats, dogs, rockets and ever so many cups of coffee"))


@pytest.mark.parametrize("words", [0, 60_000], ids=["few words", "more than CLIP has"])
def test_a_model_with_other_tokens_names_its_own_tokenizer(words: int) -> None:
    """A large vocabulary has CLIP's ids, too, and 128 columns are room enough: only the first id tells."""
    vocabulary = [*SPECIAL, "a", "cat", *(f"word{number}" for number in range(words))]
    sizes = {"width": 8, "layers": 1, "heads": 1, "hidden_width": 8, "positions": 128}
    text = DistilBertTower(vocabulary=vocabulary, context_length=128, embed_dim=16, **sizes)  # pyright: ignore
    model = CLIP(tiny_model().visual, text).eval()
    with pytest.raises(UserError, match=r"use model\.tokenize\(texts\), not clip\.tokenize") as error:
        model.encode_text(clip.tokenize(["a cat"]))
    assert "\n" not in str(error.value)
    assert model.encode_text(model.tokenize(["a cat"])).shape == (1, 16)
