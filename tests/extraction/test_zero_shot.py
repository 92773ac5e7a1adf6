import numpy as np
import pytest
import torch

from extraction.encoder import Encoder
from extraction.zero_shot import ShowPredictions, TextPredictor, kinetics_classes, table
from store.forms import Form
from tests.helpers.tiny_clip import tiny_model
from tests.helpers.toy_family.family import ToyModel
from utils.types import Features, Item, Show

TEXTS = ["a dog smiles", "a woman is lifting", "a cat", "rain", "a car", "a house"]


@pytest.fixture
def zero_shot() -> TextPredictor:
    return TextPredictor(TEXTS, np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32), 14.3)


def test_table_as_in_the_readme_of_video_features() -> None:
    best = {"labels": TEXTS[:2], "logits": [23.0612, 19.824], "probabilities": [0.96221, 0.03779]}
    assert table(best) == (
        "  Logits | Prob. | Label \n  23.061 | 0.962 | a dog smiles\n  19.824 | 0.038 | a woman is lifting\n"
    )


def test_tables_are_printed_with_an_empty_line_behind_each(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    best = {"labels": ["a dog"], "logits": [1.0], "probabilities": [1.0]}
    item = Item(tmp_path / "a.mp4", "a")
    shown = ShowPredictions()
    shown.show(Features(item, "clip/tiny", {"clip": np.zeros((2, 1))}, {}, predictions=[best, best]))
    assert capsys.readouterr().out == 2 * "  Logits | Prob. | Label \n   1.000 | 1.000 | a dog\n\n"
    assert isinstance(shown, Show)
    assert not isinstance(shown, Form)  # what is saved is not computed again just to be shown


@pytest.mark.parametrize(("top", "shown"), [(1, 1), (5, 5), (9, 6)])
def test_probabilities_are_a_softmax_over_all_texts(zero_shot: TextPredictor, top: int, shown: int) -> None:
    features = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32) * 1000
    found = zero_shot.predict(features, top=top)
    texts = zero_shot.features.astype(np.float64)
    for row, best in zip(features.astype(np.float64), found, strict=True):
        logits = 14.3 * (texts @ row) / np.linalg.norm(texts, axis=1) / np.linalg.norm(row)
        order = np.argsort(-logits)[:shown]
        assert best["labels"] == [TEXTS[i] for i in order]
        assert best["logits"] == pytest.approx(logits[order], rel=1e-12)
        assert best["probabilities"] == pytest.approx((np.exp(logits) / np.exp(logits).sum())[order], rel=1e-9)


def test_large_logits_do_not_overflow() -> None:
    zero_shot = TextPredictor(["yes", "no"], np.array([[1, 0], [-1, 0]], np.float32), 1e4)
    assert zero_shot.predict(np.array([[1, 0]], np.float32))[0]["probabilities"] == [1.0, 0.0]


def test_kinetics_has_400_different_names() -> None:
    names = kinetics_classes()
    assert len(names) == len(set(names)) == 400
    assert (names[0], names[-1]) == ("abseiling", "zumba")


@pytest.mark.parametrize(
    ("given", "shown"), [(None, "a photo of abseiling"), (["a dog smiles"], "a dog smiles")], ids=["kinetics", "own"]
)
def test_texts_are_taken_as_they_are_and_null_is_kinetics(given: list[str] | None, shown: str) -> None:
    encoder = Encoder(tiny_model(), device=torch.device("cpu"), precision="fp32")
    zero_shot = TextPredictor.from_texts(encoder, given)
    assert zero_shot.texts[0] == shown
    assert zero_shot.features.shape == (len(given) if given else 400, 16)
    assert zero_shot.scale == pytest.approx(1 / 0.07, rel=1e-6)
    assert (zero_shot.bias, zero_shot.probability) == (0, "softmax")


def test_a_model_of_the_sigmoid_loss_gives_each_text_its_own_probability() -> None:
    torch.manual_seed(0)
    encoder = Encoder(ToyModel().eval(), device=torch.device("cpu"), precision="fp32")
    predictor = TextPredictor.from_texts(encoder, TEXTS)
    pixels = torch.randint(0, 256, (3, 3, 24, 24), dtype=torch.uint8)
    features = encoder.images(pixels)
    logits, probabilities = predictor.logits(features), predictor.probabilities(predictor.logits(features))
    images, texts = (
        torch.nn.functional.normalize(torch.from_numpy(rows).double(), dim=1) for rows in (features, predictor.features)
    )
    expected = np.exp(2.0) * (images @ texts.T) - 3.0
    np.testing.assert_allclose(logits, expected.numpy(), rtol=1e-6)
    np.testing.assert_allclose(probabilities, expected.sigmoid().numpy(), rtol=1e-6)
    assert abs(probabilities.sum(axis=1) - 1).min() > 0.01
    assert predictor.predict(features)[0]["probabilities"] == sorted(probabilities[0], reverse=True)[:5]


def test_sigmoids_do_not_overflow() -> None:
    predictor = TextPredictor(["yes", "no"], np.array([[1, 0], [-1, 0]], np.float32), 1e4, -10.0, "sigmoid")
    assert predictor.predict(np.array([[1, 0]], np.float32))[0]["probabilities"] == [1.0, 0.0]
