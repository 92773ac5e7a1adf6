"""Architectures as plain data: every pair of towers travels through a checkpoint unchanged."""

import inspect
import json
from itertools import product

import pytest
import torch

from models import clip
from models.clip.description import TEXT_TOWERS, VISION_TOWERS, build, describe
from models.clip.hub_towers import DistilBertTower, TimmTower
from models.clip.mixer import TextMixer, VisionMixer
from models.clip.model import CLIP
from models.clip.weights import load_model
from tests.helpers.tiny_clip import TINY, TINY_RESNET, tiny_model
from utils.errors import UserError

CAPTIONS = ["a dog runs", "two cats on a mat", "a red car"]


def distilbert() -> DistilBertTower:
    tower = DistilBertTower(
        width=32, layers=1, heads=2, hidden_width=64, positions=32, context_length=16, embed_dim=16, trainable=False
    )
    tower.learn_vocabulary(CAPTIONS)
    return tower


VISION = {
    "vit": lambda: TINY.build("gelu").visual,
    "resnet": lambda: TINY_RESNET.build().visual,
    "mixer": lambda: VisionMixer(resolution=48, patch_size=16, width=32, layers=2, embed_dim=16),
    "timm": lambda: TimmTower(model_name="resnet10t", resolution=32, embed_dim=16),
}
TEXT = {
    "transformer": lambda: TINY.build("gelu").text,
    "mixer": lambda: TextMixer(context_length=20, width=16, layers=1, embed_dim=16, pad_mask=True, pool="mean"),
    "distilbert": distilbert,
}


def make(vision: str, text: str) -> CLIP:
    torch.manual_seed(0)
    model = CLIP(VISION[vision](), TEXT[text]())
    model.initialize()
    return model.eval()


@pytest.mark.parametrize(("vision", "text"), list(product(VISION, TEXT)))
def test_a_trained_checkpoint_gives_the_same_features(vision, text, tmp_path):
    model = make(vision, text)
    path = tmp_path / "last.pt"
    torch.save({"model": model.state_dict(), "architecture": describe(model), "optimizer": {"state": {}}}, path)
    loaded, preprocess = clip.load(str(path), device="cpu")
    assert describe(loaded) == describe(model) == json.loads(json.dumps(describe(model)))
    tokens = model.tokenize(CAPTIONS)
    assert torch.equal(loaded.tokenize(CAPTIONS), tokens)
    images = torch.randn(2, 3, preprocess.resolution, preprocess.resolution)
    assert torch.equal(loaded.encode_image(images), model.encode_image(images))
    assert torch.equal(loaded.encode_text(tokens), model.encode_text(tokens))
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in model.parameters()]
    assert not any(buffer.is_meta for buffer in loaded.buffers())


@pytest.mark.parametrize("tower", [*VISION.values(), *TEXT.values()])
def test_towers_keep_all_arguments(tower):
    made = tower()
    assert set(made.arguments) == set(inspect.signature(type(made)).parameters)


def test_every_tower_is_tried():
    assert {type(make()).__name__ for make in VISION.values()} == set(VISION_TOWERS)
    assert {type(make()).__name__ for make in TEXT.values()} == set(TEXT_TOWERS)


def test_described_or_not_openai_layouts_load_alike(tmp_path):
    model = tiny_model()
    torch.save(model.state_dict(), tmp_path / "plain.pt")
    torch.save({"model": model.state_dict(), "architecture": describe(model)}, tmp_path / "described.pt")
    plain, described = load_model(tmp_path / "plain.pt"), load_model(tmp_path / "described.pt")
    assert describe(plain) == describe(described)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), described.parameters(), strict=True))
    assert all(p.requires_grad for p in plain.parameters())


def test_activation_overrides_the_description(tmp_path):
    model = make("vit", "transformer")
    torch.save({"model": model.state_dict(), "architecture": describe(model)}, tmp_path / "x.pt")
    assert describe(load_model(tmp_path / "x.pt"))["visual"]["arguments"]["activation"] == "gelu"
    other = describe(load_model(tmp_path / "x.pt", activation="quick_gelu"))
    assert {other[name]["arguments"]["activation"] for name in other} == {"quick_gelu"}
    with pytest.raises(UserError, match="activation=relu"):
        load_model(tmp_path / "x.pt", activation="relu")


def test_mixers_without_a_description_are_read_off_their_shapes(tmp_path):
    text = TextMixer(context_length=20, width=16, layers=1, embed_dim=16)
    model = CLIP(VISION["mixer"](), text)
    model.initialize()
    model.eval()
    torch.save(model.state_dict(), tmp_path / "mixer.pt")
    loaded = load_model(tmp_path / "mixer.pt")
    images, tokens = torch.randn(2, 3, 48, 48), model.tokenize(CAPTIONS)
    assert torch.equal(loaded.encode_image(images), model.encode_image(images))
    assert torch.equal(loaded.encode_text(tokens), model.encode_text(tokens))


@pytest.mark.parametrize(("vision", "text"), [("mixer", "transformer"), ("vit", "mixer"), ("timm", "distilbert")])
def test_mixed_pairs_without_a_description_are_refused(vision, text, tmp_path):
    torch.save(make(vision, text).state_dict(), tmp_path / "mixed.pt")
    with pytest.raises(UserError, match=r"mixed\.pt: "):
        load_model(tmp_path / "mixed.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"visual": {"tower": "os.system", "arguments": {}}}, "visual.tower=os.system is none of this project's"),
        ({"visual": {"tower": "TextMixer", "arguments": {}}}, "visual.tower=TextMixer is none"),
        ({"text": {"tower": "DistilBertTower", "arguments": {"pretrained": "some/where"}}}, "expected none"),
        ({"text": {"tower": "TextTransformer", "arguments": {"depth": 3}}}, "do not fit TextTransformer"),
        ({"visual": {"tower": "TimmTower", "arguments": {"model_name": "hf-hub:some/where"}}}, "no model of timm"),
        ({"text": None}, "expected text.tower and text.arguments"),
    ],
)
def test_foreign_descriptions_are_refused(change, message, tmp_path):
    model = tiny_model()
    description = describe(model) | change
    with pytest.raises(UserError, match=message):
        build(description)
    path = tmp_path / "foreign.pt"
    torch.save({"model": model.state_dict(), "architecture": description}, path)
    for activation in (None, "gelu"):
        with pytest.raises(UserError, match=rf"foreign\.pt: .*{message}"):
            load_model(path, activation=activation)


def test_weights_that_do_not_fit_the_description(tmp_path):
    model = tiny_model()
    state = model.state_dict()
    del state["ln_final.bias"]
    torch.save({"model": state, "architecture": describe(model)}, tmp_path / "short.pt")
    with pytest.raises(UserError, match=r"1 missing: ln_final\.bias"):
        load_model(tmp_path / "short.pt")
