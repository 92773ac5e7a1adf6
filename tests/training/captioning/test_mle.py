"""Maximum likelihood: the loss by its formula, the gradient of the whole batch, and captions learned by heart."""

from functools import partial

import pytest
import torch

from models.captioner.checkpoint import load_captioner
from models.captioner.decoding import decode
from models.captioner.options import Decoding
from pairs.loading import Loading
from tests.helpers.toy_captions import FEATURES, fresh_captioner, toy_captioner, toy_data, toy_plan
from training.captioning.data import parts
from training.captioning.mle import Likelihood, summed_loss, word_losses
from training.captioning.train_captioner import train
from training.compute import Compute

CPU = Compute(torch.device("cpu"))


def test_loss_is_minus_log_likelihood_of_words_and_end():
    data = toy_data()
    model = fresh_captioner(data)
    batch = next(data.train.batches(Loading(3), epoch=0))
    expected, words = 0.0, 0
    for grid, captions in zip(batch.grids, batch.labels, strict=True):
        for caption in captions:
            known = [0, *caption[caption > 0].tolist()]
            logits = model(grid[None], torch.tensor([[known]]))[0, 0].detach()
            targets = [*known[1:], 0]
            expected -= sum(float(row.log_softmax(0)[target]) for row, target in zip(logits, targets, strict=True))
            words += len(targets)
    assert float(summed_loss(model, batch, CPU).detach()) == pytest.approx(expected, rel=1e-5)
    value = Likelihood().backward(model, batch, CPU)["loss"]
    assert value == pytest.approx(expected / words, rel=1e-5)


def test_what_stands_behind_the_end_does_not_count():
    data = toy_data()
    model, batch = fresh_captioner(data), next(data.train.batches(Loading(3), epoch=0))
    before = float(summed_loss(model, batch, CPU).detach())
    batch.labels[batch.mask == 0] = 5
    # The end itself is padding to the words behind it: what counts does not look at them.
    assert float(summed_loss(model, batch, CPU).detach()) == pytest.approx(before, rel=1e-6)


def test_label_smoothing_spreads_the_target():
    logits = torch.randn(1, 1, 2, 5)
    targets = torch.tensor([[[1, 4]]])
    log_probs = logits.log_softmax(-1)[0, 0]
    expected = [0.9 * -log_probs[t, target] + 0.1 * -log_probs[t].mean() for t, target in enumerate((1, 4))]
    torch.testing.assert_close(word_losses(logits, targets, 0.1)[0, 0], torch.stack(expected))


@pytest.mark.parametrize("number", [2, 4, 7])
def test_accumulated_gradient_is_that_of_the_whole_batch(number):
    data = toy_data()
    model, batch = fresh_captioner(data), next(data.train.batches(Loading(7), epoch=0))
    value = Likelihood().backward(model, batch, CPU)["loss"]
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    assert Likelihood().backward(model, batch, CPU, number)["loss"] == pytest.approx(value, rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("number", [1, 2, 3, 50])
def test_parts_are_the_batch(number):
    batch = next(toy_data().train.batches(Loading(7), epoch=0))
    found = list(parts(batch, number, CPU.device))
    assert [i for part in found for i in part.ids] == batch.ids
    assert torch.cat([part.labels for part in found]).equal(batch.labels)
    assert torch.cat([part.embeddings for part in found]).equal(batch.embeddings)


def test_captions_are_learned_by_heart(tmp_path):
    data = toy_data(embeddings=False)
    assert (
        train(
            data=lambda: data,
            captioner=toy_captioner,
            objective=Likelihood(),
            clip_s=partial(pytest.fail, "there are no embeddings"),
            features=FEATURES,
            plan=toy_plan(tmp_path, epochs=60, batch_size=12),
            decoding=Decoding(max_words=8),
        )
        == 0
    )
    loaded = load_captioner(tmp_path / "captioner.pt")
    assert loaded.features == FEATURES
    for batch in data.validation.in_order(Loading(12)):
        decoded = decode(loaded.model, batch.grids, Decoding(max_words=8), loaded.vocabulary)
        said = loaded.vocabulary.sentences(decoded.tokens)
        assert all(caption in own for caption, own in zip(said, batch.references, strict=True))
