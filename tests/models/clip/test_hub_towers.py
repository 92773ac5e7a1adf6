"""Towers around timm and DistilBERT: heads, preparation of images, tokens, all without network."""

import os
from copy import deepcopy

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import v2
from transformers import DistilBertTokenizerFast

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
BERT = "distilbert-base-uncased"
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


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """Nothing in its cache, nobody at its address; a single look is allowed."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("tried again"))


def test_without_weights_both_towers_say_where_they_looked_and_how_to_give_them(no_hub, tmp_path):
    found = []
    for build in (lambda: TimmTower(model_name="resnet10t", pretrained=True), lambda: DistilBertTower(pretrained=BERT)):
        with pytest.raises(UserError) as caught:
            build()
        found.append(str(caught.value))
    looked = f"not in the hub's cache ({tmp_path}/cache), and http://127.0.0.1:9 cannot be reached (Connection refused)"
    assert found == [
        f"vision.pretrained=true: cannot get the weights of resnet10t (timm/resnet10t.c3_in1k): {looked}. "
        "Give their file or folder, vision.pretrained=path/to/model.safetensors, "
        "or vision.pretrained=false for random weights",
        f"text.pretrained={BERT}: cannot get the weights of {BERT}: {looked}. Give their file or folder, "
        "text.pretrained=path/to/folder, or text.pretrained=null for random weights",
    ]
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_timms_weights_from_a_file_and_from_a_folder(tmp_path, ending):
    theirs = timm.create_model("resnet10t").state_dict()  # with its classifier
    file = tmp_path / f"model.{ending}"
    save_file(theirs, file) if ending == "safetensors" else torch.save({"state_dict": theirs}, file)
    for path in (file, tmp_path):
        tower = TimmTower(model_name="resnet10t", pretrained=str(path), embed_dim=8)
        assert all(value.equal(theirs[key]) for key, value in tower.trunk.state_dict().items())
        assert tower.arguments["pretrained"] is False  # a checkpoint of ours needs the file no more


def test_files_that_are_not_timms_weights(tmp_path):
    state = timm.create_model("resnet10t").state_dict()
    for name, content in {
        "part": {key: value for key, value in state.items() if not key.startswith("layer4")},
        "other": timm.create_model("resnet18").state_dict(),
        "nan": {key: value * float("nan") for key, value in state.items() if value.is_floating_point()},
        "evil": {"state_dict": print},
    }.items():
        torch.save(content, tmp_path / f"{name}.pth")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "part.pth": r"not weights of timm's resnet10t: \d+ are not there: layer4\.0\.conv1\.weight \.\.\.",
        "other.pth": "not weights of timm's resnet10t",
        "nan.pth": "holds nan",
        "evil.pth": "not weights of timm's resnet10t",
        "": "4 \\*.pth files there: name one of them",
        "empty": "no weights in this folder; expected one of",
        "absent": "no such file or folder; expected true, false or",
    }.items():
        with pytest.raises(UserError, match=message):
            TimmTower(model_name="resnet10t", pretrained=str(tmp_path / name))


def save_distilbert(tower: DistilBertTower, folder) -> None:
    """As transformers does: `save_pretrained` of model and tokenizer."""
    tower.trunk.save_pretrained(folder)
    words = {word: index for index, word in enumerate(tower.vocabulary or ())}
    DistilBertTokenizerFast(vocab=words).save_pretrained(folder)


def test_a_pretrained_folder(distilbert, tmp_path):
    distilbert.trunk.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no vocabulary there"):
        DistilBertTower(pretrained=str(tmp_path))
    save_distilbert(distilbert, tmp_path)
    for path in (tmp_path, tmp_path / "model.safetensors"):
        tower = DistilBertTower(pretrained=str(path), context_length=20, embed_dim=16).eval()
        tower.projection.load_state_dict(distilbert.projection.state_dict())
        tokens = tower.tokenize(CAPTIONS)
        assert torch.equal(tokens, distilbert.tokenize(CAPTIONS))
        assert torch.equal(tower(tokens), distilbert(tokens))
        assert tower.arguments == distilbert.arguments
    with pytest.raises(UserError, match="takes 64 at most"):
        DistilBertTower(pretrained=str(tmp_path))


def test_folders_that_are_no_distilbert(distilbert, tmp_path):
    save_distilbert(distilbert, tmp_path / "part")
    weights = load_file(tmp_path / "part/model.safetensors")
    kept = {key: value for key, value in weights.items() if "layer.1" not in key}
    save_file(kept, tmp_path / "part/model.safetensors", {"format": "pt"})
    (tmp_path / "empty").mkdir()
    for name, message in {
        "nothing": "no such file or folder",
        "empty": "not a folder with a DistilBERT model and its tokenizer",
        "part": r"not a DistilBERT: 16 of its weights are not there: transformer\.layer\.1\.",
    }.items():
        with pytest.raises(UserError, match=message):
            DistilBertTower(pretrained=os.fspath(tmp_path / name))
    with pytest.raises(UserError, match=r"text\.pretrained=True: expected a name"):
        DistilBertTower(pretrained=True)


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
