"""Negatives keep their promises on any caption; the head tells them apart; precision is precision."""

import gzip
import json
from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.clip.weights import find_weights, load_model
from pairs.annotations import in_words
from pairs.labels import make_labels, make_vocabulary
from pairs.loading import Loading, whole_batches
from tests.helpers.caption_files import annotated, write_data_set
from tests.helpers.shared_data import SHARED
from tests.helpers.small_data import plan
from training.captioning.data import CaptionData, LabelledGrids
from training.captioning.grammar import GrammarLoss, GrammarTask
from training.captioning.grammar_data import GrammarData
from training.captioning.grammar_findings import confusion_metrics, truth
from training.captioning.grammar_head import GRAMMATICAL, load_head
from training.captioning.negatives import EDITS, corrupt
from training.captioning.rewards import GrammarReward, RewardImages
from training.captioning.sources import scene_captions, stored_embeddings
from training.captioning.train_grammar import train
from training.compute import Compute
from utils.errors import UserError

KINDS = ["repeat", "remove", "insert", "swap", "shuffle"]
VOCABULARY = ["a", "dog", "cat", "runs", "on", "grass"]
WORD = st.sampled_from([*VOCABULARY, "the", "sleeps"])


def is_subsequence(short: list[str], long: list[str]) -> bool:
    rest = iter(long)
    return all(word in rest for word in short)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORD, min_size=1, max_size=12), st.integers(0, 2**62))
def test_negatives_of_any_caption(words, seed):
    negative = corrupt(words, VOCABULARY, Random(seed))
    changed, extra = negative.words, len(negative.words) - len(words)
    assert changed
    assert changed != words
    assert negative.kind in KINDS
    if negative.kind == "repeat":
        assert 1 <= extra <= 9
        assert is_subsequence(words, changed)
        assert set(changed) == set(words)
    if negative.kind == "remove":
        assert -3 <= extra <= -1
        assert is_subsequence(changed, words)
    if negative.kind == "insert":
        assert 1 <= extra <= 3
        assert is_subsequence(words, changed)
        assert changed[-1] == words[-1]  # never at the end
        assert set(changed) <= {*words, *VOCABULARY}
    if negative.kind == "swap":
        assert extra == 0
        assert 1 <= sum(a != b for a, b in zip(words, changed, strict=True)) <= 3
    if negative.kind == "shuffle":
        assert sorted(changed) == sorted(words)


def test_kinds_that_cannot_change_a_caption_are_not_drawn():
    kinds = {corrupt(["dog"], VOCABULARY, Random(seed)).kind for seed in range(100)}
    assert kinds == {"repeat", "insert", "swap"}
    kinds = {corrupt(["dog", "dog"], VOCABULARY, Random(seed)).kind for seed in range(100)}
    assert kinds == {"repeat", "remove", "insert", "swap"}
    kinds = {corrupt(["cat", "cat"], ["cat"], Random(seed)).kind for seed in range(100)}
    assert kinds == {"repeat", "remove", "insert"}


@pytest.mark.parametrize(("words", "vocabulary"), [([], VOCABULARY), (["a"], [])])
def test_nothing_cannot_be_corrupted(words, vocabulary):
    with pytest.raises(UserError, match="negatives: expected a caption"):
        corrupt(words, vocabulary, Random(0))


def check_frequencies(captions: list[list[str]], vocabulary: list[str]) -> None:
    """Kinds alike often, pieces of one to three words alike often."""
    draw, kinds, removed, inserted = Random(0), Counter(), Counter(), Counter()
    for words in captions:
        negative = corrupt(words, vocabulary, draw)
        assert negative.words
        assert negative.words != words
        kinds[negative.kind] += 1
        if negative.kind == "remove":
            removed[len(words) - len(negative.words)] += 1
        if negative.kind == "insert":
            inserted[len(negative.words) - len(words)] += 1
    for counter, expected in ((kinds, KINDS), (removed, [1, 2, 3]), (inserted, [1, 2, 3])):
        assert set(counter) == set(expected)
        share, total = 1 / len(expected), sum(counter.values())
        error = (share * (1 - share) / total) ** 0.5
        assert all(abs(count / total - share) < 4 * error for count in counter.values()), counter


def test_frequencies():
    draw = Random(1)
    check_frequencies([draw.sample(VOCABULARY, 5) for _ in range(4000)], VOCABULARY)


@pytest.mark.shared
def test_frequencies_on_captions_of_people():
    with gzip.open(SHARED / "data/coco_captions_subset/captions_val2017_full.json.gz", "rt", encoding="utf-8") as file:
        captions = [in_words(entry["caption"]).split() for entry in json.load(file)["annotations"]]
    assert len(captions) == 25_014
    captions = [words for words in captions if words]
    counts = Counter(word for words in captions for word in words)
    check_frequencies(captions, [word for word, count in counts.items() if count > 5])


def test_edits_leave_what_they_are_given():
    for edit in EDITS.values():
        words = ["a", "dog", "runs"]
        edit(words, VOCABULARY, Random(0))
        assert words == ["a", "dog", "runs"]


def test_precision_and_recall_by_hand():
    """Of 4 captions 3 are recognised, of 6 negatives 1 is taken for a caption."""
    labels = torch.tensor([True] * 4 + [False] * 6)
    predicted = torch.tensor([True] * 3 + [False] + [True] + [False] * 5)
    found = confusion_metrics(predicted, labels)
    assert found == pytest.approx({"accuracy": 0.8, "precision": 3 / 4, "recall": 3 / 4, "f1": 0.75})
    predicted[5] = predicted[6] = True
    found = confusion_metrics(predicted, labels)
    assert found == pytest.approx({"accuracy": 0.6, "precision": 3 / 6, "recall": 3 / 4, "f1": 0.6})
    assert confusion_metrics(~labels, labels)["f1"] == 0
    assert truth(2).tolist() == [True, True, False, False]


def small_data(captions: int = 40) -> CaptionData:
    """Sentences of one form, with embeddings of no meaning."""
    draw, rng = Random(0), np.random.default_rng(0)
    animals, places = ["dog", "cat", "horse", "bird"], ["grass", "road", "beach", "snow"]
    texts = [
        [f"a {draw.choice(animals)} runs on the {draw.choice(places)}", f"the {draw.choice(animals)} sleeps"]
        for _ in range(captions)
    ]
    ids = [str(i) for i in range(captions)]
    vectors = rng.normal(size=(captions, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    images = [annotated(i, own) for i, own in enumerate(texts)]
    labels = make_labels(images, make_vocabulary(images, images, threshold=0))
    source = LabelledGrids(labels, {}, dict(zip(ids, vectors, strict=True)), labels.whole_captions)
    return CaptionData(source, source, labels.vocabulary)


def test_batches_can_be_made_again_and_shared_out():
    source = GrammarData.of(small_data()).train
    whole = list(source.batches(Loading(8, seed=3), epoch=1))
    assert len(whole) == whole_batches(len(source), Loading(8)) == 5
    again = list(source.batches(Loading(8, seed=3), epoch=1, start=3))
    halves = [list(source.batches(Loading(4, seed=3, rank=rank, world=2), epoch=1)) for rank in range(2)]
    assert [batch.captions for batch in again] == [batch.captions for batch in whole[3:]]
    for batch, one, two in zip(whole, *halves, strict=True):
        assert batch.captions == one.captions + two.captions
        assert batch.negatives == one.negatives + two.negatives
        assert batch.ids == one.ids + two.ids
    other = next(source.batches(Loading(8, seed=3), epoch=2))
    assert other.captions != whole[0].captions
    assert [b.negatives for b in source.in_order(16)] == [b.negatives for b in source.in_order(16)]


def task(prefix: str = "A photo depicts ") -> GrammarTask:
    torch.manual_seed(0)
    model = load_model(find_weights("tiny"))
    return GrammarTask(model, GrammarLoss(model.text.transformer.width), GrammarData.of(small_data()), prefix)


def test_only_text_scale_and_head_are_trained():
    grammar = task()
    grammar.backward(next(grammar.batches(Loading(8), epoch=0)), Compute(torch.device("cpu")))
    trained = {name for name, parameter in grammar.model.named_parameters() if parameter.grad is not None}
    assert {"text.text_projection", "logit_scale", "text.token_embedding.weight"} <= trained
    assert not any(name.startswith("visual.") for name in trained)
    assert trained == {name for name, p in grammar.model.named_parameters() if not name.startswith("visual.")}
    assert all(parameter.grad is not None for parameter in grammar.loss.head.parameters())
    assert not any(name.endswith("bias") for name, _ in grammar.loss.head.named_parameters())


def test_loss_is_contrastive_over_captions_and_grammar_over_both():
    """Negatives are no candidates for the images; the head's weight is its share."""
    grammar = task()
    compute, batch = Compute(torch.device("cpu")), next(grammar.batches(Loading(6), epoch=0))
    values = grammar.backward(batch, compute)
    with torch.no_grad():
        texts = [f"A photo depicts {caption}" for caption in batch.captions]
        features = grammar.model.encode_text(grammar.model.tokenize(texts))
    logits = grammar.model.logit_scale.exp() * torch.nn.functional.normalize(features, dim=1) @ batch.embeddings.t()
    rows, columns = logits.log_softmax(1).diagonal().mean(), logits.log_softmax(0).diagonal().mean()
    assert float(values["contrastive_loss"]) == pytest.approx(float(-(rows + columns).detach() / 2), rel=1e-4)
    assert float(values["loss"]) == pytest.approx(float(values["contrastive_loss"] + values["grammar_loss"]), rel=1e-5)
    grammar.loss.grammar_weight = 3.0
    heavier = grammar.backward(batch, compute)
    assert float(heavier["loss"]) == pytest.approx(
        float(values["contrastive_loss"] + 3 * values["grammar_loss"]), rel=1e-5
    )


def test_parts_of_a_batch_are_refused():
    grammar = task()
    with pytest.raises(UserError, match="accumulation=2"):
        grammar.backward(next(grammar.batches(Loading(8), epoch=0)), Compute(torch.device("cpu")), 2)


def test_trained_head_judges_grammar_as_a_reward(tmp_path):
    data = small_data()
    arguments = {"data": lambda: data, "model_name": "tiny"}
    assert train(**arguments, plan=plan(tmp_path, batch_size=20, epochs=25)) == 0
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert last["held_out/accuracy"] > 0.8
    assert last["held_out/precision"] > 0.7
    assert {f"held_out/found_{kind}" for kind in KINDS} <= set(last)
    assert last["held_out/loss"] == pytest.approx(
        last["held_out/contrastive_loss"] + last["held_out/grammar_loss"], abs=1e-4
    )

    captions = ["a dog runs on the grass", "the the dog dog dog on sleeps", "the cat sleeps", "on on snow a the"]
    seen = RewardImages([[]] * 4, None, 16)
    for name in ("grammar.pt", "last.pt"):
        reward = GrammarReward(grammar_path=str(tmp_path / name))
        found = reward(seen, captions)
        assert found[[0, 2]].min() > 0.5 > found[[1, 3]].max()
    with pytest.raises(UserError, match=r"learned with prefix 'A photo depicts ', asked for ''"):
        GrammarReward(grammar_path=str(tmp_path / "grammar.pt"), prefix="")

    tuned, original = load_model(tmp_path / "grammar.pt"), load_model(find_weights("tiny"))
    for key, value in original.visual.state_dict().items():
        torch.testing.assert_close(tuned.visual.state_dict()[key], value, atol=1e-3, rtol=1e-2)
    assert not torch.equal(tuned.text.text_projection, original.text.text_projection)
    head, prefix = load_head(tmp_path / "grammar.pt")
    assert prefix == "A photo depicts "
    assert head(torch.zeros(1, 64)).shape == (1, 2)
    assert GRAMMATICAL == 1


def test_scenes_need_no_download():
    data = GrammarData.of(scene_captions(count=12, validation_count=4, device="cpu", word_count_threshold=0))
    batch = next(data.train.batches(Loading(4), epoch=0))
    assert batch.embeddings.shape == (4, 128)
    assert len(batch.captions) == len(batch.negatives) == 4
    assert "UNK" not in data.train.vocabulary
    assert len(data.validation) == 4


def test_karpathy_needs_no_grids(tmp_path):
    paths = write_data_set(tmp_path)
    data = GrammarData.of(stored_embeddings(labels_path=paths["labels_path"], embeddings_path=paths["grids_path"]))
    assert (len(data.train), len(data.validation)) == (2, 1)
    assert list(data.train.vocabulary) == ["a", "b"]  # without UNK
    (batch,) = data.validation.in_order(8)
    assert batch.captions[0] in ("a b c2", "b a")
    with pytest.raises(UserError, match="embeddings_path: expected"):
        stored_embeddings(labels_path=paths["labels_path"], embeddings_path=None)


def test_unknown_words_are_no_negatives():
    source = replace(GrammarData.of(small_data()).train, vocabulary=["zebra", "yak"])
    inserted = {
        word
        for batch in source.batches(Loading(40), epoch=0)
        for caption, negative in zip(batch.captions, batch.negatives, strict=True)
        for word in set(negative.words) - set(caption.split())
    }
    assert inserted == {"zebra", "yak"}
