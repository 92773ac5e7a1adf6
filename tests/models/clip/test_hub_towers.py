"""Towers around timm and DistilBERT: heads, preparation of images, tokens, all without network."""

import logging
import os
from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision.transforms import v2

from extraction.encoder import Encoder
from extraction.preprocess import Preprocess
from models.clip.hub_towers import IMAGENET_MEAN, IMAGENET_STD, DistilBertTower, ProjectionHead, TimmTower
from models.clip.model import CLIP
from tests.helpers.tiny_clip import TINY
from utils.errors import UserError

SMALL = {
    "width": 32,
    "layers": 2,
    "heads": 2,
    "hidden_width": 64,
    "positions": 64,
    "context_length": 20,
    "embed_dim": 16,
}
CAPTIONS = ["A dog runs on the beach.", "Two dogs play; a cat sleeps!", "The café's red umbrella", "a cat on a red mat"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def distilbert() -> DistilBertTower:
    torch.manual_seed(0)
    tower = DistilBertTower(**SMALL)
    tower.learn_vocabulary(CAPTIONS)
    return tower.eval()


def test_projection_head_is_the_formula():
    torch.manual_seed(0)
    head, x = ProjectionHead(7, 5, dropout=0.5).eval(), torch.randn(3, 7)
    projected = x @ head.projection.weight.t() + head.projection.bias
    summed = projected + F.gelu(projected) @ head.fc.weight.t() + head.fc.bias
    torch.testing.assert_close(head(x), F.layer_norm(summed, (5,), head.layer_norm.weight, head.layer_norm.bias))
    assert not torch.equal(head.train()(x), head(x))  # dropout is on


def test_resnet50_with_seed_1s_sizes():
    tower = TimmTower()
    assert (tower.projection.projection.in_features, tower.output_dim) == (2048, 256)
    assert sum(p.numel() for p in tower.trunk.parameters()) == 23_508_032


@pytest.mark.parametrize("model_name", ["resnet10t", "vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_any_timm_model(model_name):
    tower = TimmTower(model_name=model_name, resolution=96, projection="linear", embed_dim=8).eval()
    assert tower(torch.randn(2, 3, 96, 96)).shape == (2, 8)


def test_wrong_timm_arguments():
    with pytest.raises(UserError, match=r"no model of timm; did you mean \w*resnet50d"):
        TimmTower(model_name="resnet50d_")
    with pytest.raises(UserError, match="no model of timm"):
        TimmTower(model_name="hf-hub:some/where")
    with pytest.raises(UserError, match="projection=heads: did you mean head"):
        TimmTower(model_name="resnet10t", projection="heads")
    with pytest.raises(UserError, match="cannot be fetched"):
        TimmTower(model_name="resnet10t", pretrained=True)


def test_images_are_squashed_and_normalised_as_torchvision_does():
    tower = TimmTower(model_name="resnet10t", resolution=64)
    rgb = np.random.default_rng(0).integers(0, 256, (90, 151, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    official = v2.Compose(
        [
            v2.Resize((64, 64), interpolation=v2.InterpolationMode.BICUBIC),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    preprocess = Preprocess.of(tower)
    torch.testing.assert_close(preprocess(image), official(image), atol=1e-6, rtol=0)
    fast = Preprocess.of(tower, "fast").frame(rgb).int() - preprocess.pixels(image).int()
    assert fast.abs().max() <= 1


def test_encoder_prepares_as_the_tower_says():
    torch.manual_seed(0)
    model = CLIP(TimmTower(model_name="resnet10t", resolution=64, embed_dim=16), TINY.build().text).eval()
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    expected = model.encode_image((pixels / 255 - mean) / std).detach().numpy()
    found = Encoder(model, device=torch.device("cpu")).images(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_frozen_trunk_does_not_move():
    tower = TimmTower(model_name="resnet10t", trainable=False, resolution=64, embed_dim=8).train()
    before = {key: value.clone() for key, value in tower.trunk.state_dict().items()}
    tower(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is None for p in tower.trunk.parameters())
    assert all(p.grad is not None for p in tower.projection.parameters())
    assert all(torch.equal(before[key], value) for key, value in tower.trunk.state_dict().items())


def test_distilbert_sizes_of_seed_1():
    with torch.device("meta"):
        tower = DistilBertTower(vocabulary=["[PAD]", "[UNK]", "[CLS]", "[SEP]"] + [f"w{n}" for n in range(30_518)])
    assert sum(p.numel() for p in tower.trunk.parameters()) == 66_362_880  # distilbert-base-uncased
    assert tower.projection.projection.weight.shape == (256, 768)


def test_tokens_are_those_of_transformers(distilbert, tmp_path):
    from transformers import DistilBertTokenizerFast

    (tmp_path / "vocab.txt").write_text("\n".join(distilbert.vocabulary) + "\n", encoding="utf-8")
    official = DistilBertTokenizerFast.from_pretrained(str(tmp_path))
    texts = [*CAPTIONS, "", "Unseen words: zebra ☃", "UPPER café"]
    expected = official(texts, padding="max_length", max_length=20, return_tensors="pt")["input_ids"]
    assert torch.equal(distilbert.tokenize(texts), expected.int())


def test_long_texts_raise_or_are_cut(distilbert):
    long = "a cat " * 30
    with pytest.raises(UserError, match="text 2 of 2 has 62 tokens, 20 is the most"):
        distilbert.tokenize(["a cat", long])
    tokens = distilbert.tokenize([long], truncate=True)
    assert tokens.shape == (1, 20)
    assert distilbert.vocabulary[tokens[0, -1]] == "[SEP]"


def test_features_are_read_at_cls_and_padding_does_not_count(distilbert):
    beside = distilbert.tokenize(["a cat", CAPTIONS[1]])
    alone = beside[:1, :4]  # [CLS] a cat [SEP]
    assert distilbert.vocabulary[alone[0, -1]] == "[SEP]"
    torch.testing.assert_close(distilbert(beside)[:1], distilbert(alone), atol=1e-5, rtol=1e-5)
    hidden = distilbert.trunk(input_ids=alone.long()).last_hidden_state[:, 0]
    torch.testing.assert_close(distilbert(alone), distilbert.projection(hidden), atol=1e-5, rtol=1e-5)


def test_the_same_captions_give_the_same_vocabulary(distilbert):
    other = DistilBertTower(**SMALL)
    assert other.vocab_size == 5
    with pytest.raises(UserError, match="learn_vocabulary"):
        other.tokenize(["a cat"])
    other.learn_vocabulary(iter(CAPTIONS))
    assert other.vocabulary == distilbert.vocabulary
    assert other.trunk.embeddings.word_embeddings.weight.shape == (other.vocab_size, 32)


def test_a_pretrained_folder(distilbert, tmp_path):
    from transformers import DistilBertTokenizerFast

    distilbert.trunk.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no vocabulary there"):
        DistilBertTower(pretrained=str(tmp_path))
    words = {word: index for index, word in enumerate(distilbert.vocabulary)}
    DistilBertTokenizerFast(vocab=words).save_pretrained(tmp_path)
    tower = DistilBertTower(pretrained=str(tmp_path), context_length=20, embed_dim=16).eval()
    tower.projection.load_state_dict(distilbert.projection.state_dict())
    tokens = tower.tokenize(CAPTIONS)
    assert torch.equal(tokens, distilbert.tokenize(CAPTIONS))
    assert torch.equal(tower(tokens), distilbert(tokens))
    assert tower.arguments == distilbert.arguments
    with pytest.raises(UserError, match="takes 64 at most"):
        DistilBertTower(pretrained=str(tmp_path))


def test_without_the_hub_a_warning_and_random_weights(caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        tower = DistilBertTower(pretrained="distilbert-base-uncased-nowhere", **SMALL)
    assert "cannot be fetched here" in caplog.text
    assert tower.vocabulary is None
    with pytest.raises(UserError, match="no such folder"):
        DistilBertTower(pretrained=os.fspath(tmp_path / "nothing"))
    with pytest.raises(UserError, match="not a folder with a DistilBERT model"):
        DistilBertTower(pretrained=os.fspath(tmp_path))


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_reduced_precision(distilbert, precision):
    visual = TimmTower(model_name="vit_tiny_patch16_224", resolution=32, embed_dim=16).eval()
    model = CLIP(visual, distilbert).eval()
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    full = Encoder(deepcopy(model), device=torch.device("cpu"))
    images, texts = full.images(pixels), full.texts(CAPTIONS)
    reduced = Encoder(model, device=torch.device("cpu"), precision=precision)
    for expected, found in ((images, reduced.images(pixels)), (texts, reduced.texts(CAPTIONS))):
        cosine = (expected * found).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(found, axis=1)
        assert cosine.min() > 0.99
