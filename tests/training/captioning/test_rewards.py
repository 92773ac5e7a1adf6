"""Rewards: their arithmetic on embeddings made for it, the end of captions, and one text tower for several rewards."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate

from evaluation.captions.cider import CiderD, DocumentFrequency
from models.clip.hub_towers import DistilBertTower
from models.clip.model import CLIP
from models.clip.weights import find_weights, load_model
from models.load import ModelChoice, load
from pairs.annotations import END_WORD
from pairs.loading import Loading
from tests.helpers.configs import composed
from tests.helpers.tiny_clip import tiny_model
from tests.helpers.tiny_transformers import write_transformers_model
from tests.helpers.toy_captions import Says, toy_data
from training.captioning import reward_text, rewards
from training.captioning.reward_text import FrozenText, frozen_text
from training.captioning.rewards import (
    CiderReward,
    ClipSReward,
    GrammarReward,
    RefClipSReward,
    RewardImages,
    RewardSum,
)
from training.contrastive.task import export
from utils.command_line import CONFIGS
from utils.errors import UserError

CPU = torch.device("cpu")


def images(embeddings: list[list[float]] | None, references: list[list[str]] | None = None) -> RewardImages:
    count = len(embeddings or references or [])
    vectors = None if embeddings is None else torch.tensor(embeddings)
    return RewardImages(references or [[] for _ in range(count)], vectors, longest_reference=6)


class FakeText:
    """Embeddings of a few captions, given in advance."""

    def embeddings(self, captions):
        known = {"right": [1.0, 0.0], "near": [0.6, 0.8], "wrong": [-1.0, 0.0], "aside": [0.0, 1.0]}
        return np.array([known[caption] for caption in captions], dtype=np.float32)

    def to(self, device):
        self.device = device


@pytest.fixture
def _fake(monkeypatch):
    monkeypatch.setattr(rewards, "frozen_text", lambda *_: FakeText())


@pytest.mark.usefixtures("_fake")
def test_clip_s():
    found = ClipSReward(model_name="fake")(images([[1.0, 0.0]] * 4), ["right", "near", "wrong", "aside"])
    assert found.tolist() == pytest.approx([2.5, 1.5, 0, 0])


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_ref_clip_s(scale):
    reward = RefClipSReward(model_name="fake", reference_scale=scale)
    seen = images([[1.0, 0.0]] * 3, [["aside", "near"], ["right"], ["right"]])
    harmonic = 2 * 1.5 * scale / (1.5 + scale)  # CLIP-S 1.5, and a reference that says the same
    assert reward(seen, ["near", "right", "wrong"]).tolist() == pytest.approx(
        [harmonic, 2 * 2.5 * scale / (2.5 + scale), 0]
    )


@pytest.mark.usefixtures("_fake")
def test_embeddings_of_another_model_or_none():
    with pytest.raises(UserError, match="embeddings have 3 numbers, fake's texts 2"):
        ClipSReward(model_name="fake")(images([[1.0, 0.0, 0.0]]), ["right"])
    with pytest.raises(UserError, match=r"embeddings_path: expected"):
        ClipSReward(model_name="fake")(images(None, [["a"]]), ["right"])


def test_rewards_add_up_with_their_weights():
    both = RewardSum(rewards={"a": Says("red"), "b": Says("star")}, weights={"a": 2.0, "b": 0.5})
    captions = ["a red star", "red red", "nothing"]
    seen = images(None, [["a"]] * 3)
    assert both(seen, captions).tolist() == [2.5, 4.0, 0.0]
    parts = both.parts(seen, captions)
    assert (parts["a"].tolist(), parts["b"].tolist()) == ([1, 2, 0], [1, 0, 0])
    with pytest.raises(UserError, match="a weight for each"):
        RewardSum(rewards={"a": Says("red")}, weights={"b": 1.0})


CAPTIONS = ["right", "wrong", "near", "near", "aside", "right"]


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("kind", [ClipSReward, RefClipSReward, CiderReward])
def test_several_captions_an_image_are_judged_as_if_it_came_as_often(kind):
    reward = kind() if kind is CiderReward else kind(model_name="fake")
    reward.prepare(toy_data().train, CPU)
    seen = images([[1.0, 0.0], [0.0, 1.0]], [["near", "right"], ["aside"]])
    often = images([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 3, [["near", "right"]] * 3 + [["aside"]] * 3)
    found = reward(replace(seen, captions_each=3), CAPTIONS)
    assert found.tolist() == pytest.approx(reward(often, CAPTIONS).tolist())
    assert len(found.unique()) > 1


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("kind", [ClipSReward, RefClipSReward])
def test_the_text_tower_goes_to_the_device(kind):
    reward = kind(model_name="fake")
    reward.prepare(toy_data().train, torch.device("meta"))
    assert reward._text.device == torch.device("meta")


def prepared(**arguments) -> CiderReward:
    reward = CiderReward(**arguments)
    reward.prepare(toy_data().train, CPU)
    return reward


def test_cider_is_cider_d_with_the_end_as_a_word():
    reward = prepared(max_words=8)
    source = toy_data().train
    frequency = DocumentFrequency.build(
        [[*caption.split(), END_WORD] for caption in captions] for captions in source.all_references()
    )
    captions = ["a red square", "one square that is red", "red red red", "", "a a a a a a a a"]
    references = [next(iter(source.all_references()))] * 5
    ends = [["a", "red", "square", END_WORD], ["one", "square", "that", "is", "red", END_WORD]]
    words = [[*caption.split(), END_WORD] for caption in captions[:4]] + [captions[4].split()]  # the last was cut
    found = reward(RewardImages(references, None, 6), captions)
    assert found.tolist() == pytest.approx(CiderD(frequency).score(words, [ends] * 5).tolist())
    assert found[:2].min() > 3
    assert found.dtype == torch.float32


def test_ending_well_is_rewarded():
    """The same words, once with the end and once cut off there."""
    references = [["a red square"]]
    whole, cut = (prepared(max_words=n)(RewardImages(references, None, 6), ["a red square"]) for n in (8, 3))
    assert whole > cut


def test_references_that_may_have_been_cut_have_no_end():
    references = [["one square that is red"]]
    complete, cut = (
        prepared(max_words=8)(RewardImages(references, None, longest), ["one square that is red"]) for longest in (6, 5)
    )
    assert complete == pytest.approx(10, abs=1e-4)
    assert cut < 9.9


def test_kept_frequencies_have_to_know_the_end(tmp_path):
    DocumentFrequency.build([[["a", "b"]]]).save(tmp_path / "without.json")
    with pytest.raises(UserError, match=rf"without the end of captions, {END_WORD}"):
        prepared(document_frequency_path=str(tmp_path / "without.json"))
    source = toy_data().train
    with_ends = [[[*caption.split(), END_WORD] for caption in own] for own in source.all_references()]
    DocumentFrequency.build(with_ends).save(tmp_path / "df.json")
    seen, captions = RewardImages([next(iter(source.all_references()))], None, 6), ["a red star"]
    assert prepared(document_frequency_path=str(tmp_path / "df.json"))(seen, captions) == prepared()(seen, captions)


def test_prefix_comes_once_and_equal_captions_are_encoded_once(monkeypatch):
    model = load_model(find_weights("tiny"))
    text = FrozenText(
        load_model(find_weights("tiny")).requires_grad_(False).text, prefix="A photo depicts ", batch_size=2
    )
    seen: list[str] = []
    tokenize = text.text.tokenize
    monkeypatch.setattr(text.text, "tokenize", lambda texts, **kw: seen.extend(texts) or tokenize(texts, **kw))
    captions = ["a red square", "", "a red square", "a blue circle", "x " * 100]
    found = text.embeddings(captions)
    assert seen == [f"A photo depicts {caption}" for caption in ("a red square", "", "a blue circle", "x " * 100)]
    tokens = model.tokenize([f"A photo depicts {caption}" for caption in captions], truncate=True)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.encode_text(tokens), dim=1)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-4)
    text.pooled(captions)
    assert len(seen) == 4  # what was encoded for one reward serves the next


def test_pooled_features_are_those_before_the_projection():
    text = load_model(find_weights("tiny")).text
    tokens = text.tokenize(["a dog", "two red squares above a circle"])
    with torch.no_grad():
        torch.testing.assert_close(text.pooled(tokens) @ text.text_projection, text(tokens), atol=1e-5, rtol=1e-4)


def test_rewards_of_one_model_share_its_text_tower():
    assert frozen_text("tiny", "a ") is frozen_text("tiny", "a ")
    assert frozen_text("tiny", "a ") is not frozen_text("tiny", "b ")
    assert not any(parameter.requires_grad for parameter in frozen_text("tiny", "a ").text.parameters())


@pytest.mark.parametrize("path", [None, "nothing.pt", "tiny"])
def test_grammar_without_its_file(path):
    given = str(find_weights("tiny")) if path == "tiny" else path
    with pytest.raises(UserError, match="grammar_path"):
        GrammarReward(grammar_path=given)


WEIGHTS = {
    "cider": {"cider": 1.0},
    "clips": {"clips": 2.0},
    "cider_clips": {"clips": 2.0, "cider": 1.0},
    "ref_clips": {"ref_clips": 2.0},
    "clips_grammar": {"clips": 2.0, "grammar": 1.0},
}


def test_every_option_of_the_group_has_the_weights_of_the_released_code(monkeypatch):
    assert {path.stem for path in (CONFIGS / "caption_train/reward").glob("*.yaml")} == set(WEIGHTS)
    monkeypatch.setattr(rewards, "load_head", lambda path: (torch.nn.Linear(64, 2), "A photo depicts "))
    monkeypatch.setattr(rewards, "frozen_text", lambda *_: FakeText())
    for name, weights in WEIGHTS.items():
        config = composed("caption_train", f"reward={name}", "grammar_path=grammar.pt")
        assert instantiate(config.reward, _convert_="all").weights == weights


def test_batches_become_images():
    batch = next(toy_data().train.batches(Loading(4), epoch=0))
    seen = RewardImages.of(batch)
    assert seen.longest_reference == 6
    assert seen.references is batch.references
    assert reward_text.check_width(seen.need_embeddings(), np.zeros((2, 7)), "any") is None


def test_a_text_tower_with_other_tokens_is_read_to_its_end(tmp_path):
    """The largest id of a WordPiece text is anywhere in it: cut there, both captions would be "a photo of a"."""
    torch.manual_seed(0)
    words = ["a photo of a cat", "a photo of a dog"]
    sizes = {"width": 32, "layers": 1, "heads": 2, "hidden_width": 64, "positions": 32, "context_length": 16}
    text = DistilBertTower(**sizes, embed_dim=16)
    text.learn_vocabulary([*words, "photo zebra"])
    for weight in text.trunk.transformer.parameters():  # at first a text's words hardly reach [CLS]
        weight.data *= 10 if weight.dim() == 2 else 1
    export(CLIP(tiny_model().visual, text), tmp_path / "model.pt", torch.float32)
    reward = ClipSReward(model_name=str(tmp_path / "model.pt"), prefix="")
    cat, dog = reward._text.embeddings(words)
    assert np.abs(cat - dog).max() > 1e-3
    seen = images(np.stack([cat, cat]).tolist())
    assert reward(seen, words)[0] == pytest.approx(2.5, abs=1e-4)
    assert reward(seen, words)[1] < 2.499
    with torch.no_grad():
        expected = torch.nn.functional.normalize(text.eval()(text.tokenize(words)), dim=1)
    torch.testing.assert_close(torch.from_numpy(np.stack([cat, dog])), expected, atol=1e-5, rtol=1e-4)


def test_a_judge_of_another_family(tmp_path):
    name = str(write_transformers_model(tmp_path / "siglip", "siglip"))
    model = load(ModelChoice(feature_type="transformers", model_name=name, device="cpu")).model
    with torch.no_grad():
        texts = F.normalize(
            model.encode_text(model.tokenize(["A photo depicts a cat", "A photo depicts a dog"])), dim=1
        )
    reward = ClipSReward(model_name=name, feature_type="transformers")
    reward.prepare(None, CPU)  # pyright: ignore[reportArgumentType]
    found = reward(images(texts[:1].tolist() * 2), ["a cat", "a dog"])
    torch.testing.assert_close(found, 2.5 * (texts @ texts[0]).clamp_min(0), atol=1e-5, rtol=1e-5)
