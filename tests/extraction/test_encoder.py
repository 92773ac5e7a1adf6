import numpy as np
import pytest
import torch

from extraction.encoder import Encoder
from extraction.preprocess import normalize
from models.clip.mixer import TextMixer
from models.clip.model import CLIP
from models.clip.tokenizer import tokenize
from tests.helpers.tiny_clip import tiny_model
from utils.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def encoder() -> Encoder:
    return Encoder(tiny_model(), device=CPU, precision="fp32")


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)


def test_images_are_normalised_then_encoded(encoder: Encoder, pixels: torch.Tensor) -> None:
    features = encoder.images(pixels)
    with torch.no_grad():
        expected = tiny_model().encode_image(normalize(pixels)).numpy()
    assert (features.shape, features.dtype) == ((5, 16), np.float32)
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_vectors_alone_are_what_the_model_says(
    encoder: Encoder, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CoCa's are of length 1, those of its tower are not."""
    encode = encoder.model.encode_image
    monkeypatch.setattr(encoder.model, "encode_image", lambda images: 2 * encode(images))
    twice = encoder.images(pixels)
    monkeypatch.undo()
    np.testing.assert_allclose(twice, 2 * encoder.images(pixels), rtol=1e-6)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_a_batch_too_large_for_the_memory_is_halved(
    encoder: Encoder, pixels: torch.Tensor, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, trunk = encoder.images(pixels), encoder.model.visual.trunk

    def with_little_memory(batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return trunk(batch)

    monkeypatch.setattr(encoder.model.visual, "trunk", with_little_memory)
    np.testing.assert_allclose(encoder.images(pixels), whole, atol=1e-5)


def test_what_fits_is_found_out_once_and_told(
    encoder: Encoder, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trunk, sizes = encoder.model.visual.trunk, []

    def with_little_memory(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return trunk(batch)

    monkeypatch.setattr(encoder.model.visual, "trunk", with_little_memory)
    encoder.images(pixels)
    assert sizes == [5, 3, 2, 1, 2]
    sizes.clear()
    encoder.images(pixels)
    assert sizes == [2, 2, 1]
    assert [record.message.split(". ")[0] for record in caplog.records] == [
        "device=cpu: its memory does not hold batches of 5: 3 at a time from now on",
        "device=cpu: its memory does not hold batches of 3: 2 at a time from now on",
    ]


def test_texts_are_halved_as_well(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, encode = ["a cat", "a dog", "a rocket"], encoder.model.encode_text
    whole = encoder.texts(texts)

    def with_little_memory(tokens: torch.Tensor) -> torch.Tensor:
        if len(tokens) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return encode(tokens)

    monkeypatch.setattr(encoder.model, "encode_text", with_little_memory)
    np.testing.assert_allclose(encoder.texts(texts), whole, atol=1e-5)


def test_a_single_image_too_large_for_the_memory_raises(
    encoder: Encoder, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_memory(batch: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(encoder.model.visual, "trunk", without_memory)
    with pytest.raises(UserError, match="device=cpu: its memory does not even hold a batch of one"):
        encoder.images(pixels)


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_texts_in_batches(encoder: Encoder, batch_size: int) -> None:
    texts = ["a cat", "a dog", "", "two dogs , one frisbee", "a cat"]
    with torch.no_grad():
        expected = tiny_model().encode_text(tokenize(texts)).numpy()
    np.testing.assert_allclose(encoder.texts(texts, batch_size=batch_size), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 77), (3, 77), (4, 20)])
def test_token_ids_need_no_columns_after_the_last_end(encoder: Encoder, shape: tuple[int, int]) -> None:
    batch, columns = shape
    tokens = tokenize(["a cat", "two dogs , one frisbee", "", "a cat"][:batch])[:, :columns]
    with torch.no_grad():
        expected = tiny_model().encode_text(tokens).numpy()
    features = encoder.tokens(tokens)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-6 * np.abs(expected).max(), rtol=0)


def test_only_columns_up_to_the_last_end_are_computed(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, transformer = [], encoder.model.text.transformer
    compute = transformer.forward

    def recorded(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape[:2]))
        return compute(x)

    monkeypatch.setattr(transformer, "forward", recorded)
    encoder.texts(["dog " * 20, "two dogs , one frisbee", "", "a cat"], batch_size=2)
    assert seen == [(2, 16), (2, 22)]  # sorted by length: 2 and 4 tokens, for which 16 are computed; 7 and 22


def test_other_text_towers_get_all_columns() -> None:
    """A Mixer refuses fewer: it has weights for every position."""
    text = TextMixer(vocab_size=49408, width=16, layers=1, embed_dim=16)
    text.initialize()
    model = CLIP(tiny_model().visual, text).eval()
    texts = ["a cat", "two dogs , one frisbee", ""]
    with torch.no_grad():
        expected = model.encode_text(tokenize(texts)).numpy()
    np.testing.assert_allclose(Encoder(model, device=CPU).texts(texts, batch_size=1), expected, atol=1e-5)


def test_no_texts(encoder: Encoder) -> None:
    assert encoder.texts([]).shape == (0, 16)


def test_texts_longer_than_the_context_are_cut_only_if_asked(encoder: Encoder) -> None:
    long = "dog " * 100
    with pytest.raises(RuntimeError, match="102 tokens"):
        encoder.texts([long])
    assert encoder.texts([long], truncate=True).shape == (1, 16)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("number", [1, 3, 8])
def test_texts_are_the_same_to_the_bit_beside_longer_ones(number: int, precision: str) -> None:
    encoder = Encoder(tiny_model(), device=CPU, precision=precision)  # pyright: ignore[reportArgumentType]
    short = tokenize([f"a photo of {k}" for k in range(number)])
    found = []
    for words in (1, 12, 13, 14, 15, 20, 33, 74):
        beside = tokenize(["dog " * words])
        found.append(encoder.tokens(torch.cat([short, beside]))[:number])
    assert all(np.array_equal(each, found[0]) for each in found)
