"""Every loss against its formula, written out as loops."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from tests.helpers.tiny_clip import tiny_model
from training.contrastive.losses import ClipLoss, Sigmoid, SoftTargets

IdInfoNCE = partial(ClipLoss, by_image=True)
LOSSES = (ClipLoss, IdInfoNCE, SoftTargets, Sigmoid)
LOG_SCALE = 1.3


def batch(ids=(3, 1, 3, 7, 3)):
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(len(ids), 4, generator=generator, requires_grad=True) for _ in range(2))
    return images, texts, torch.tensor(LOG_SCALE, requires_grad=True), torch.tensor(ids)


def numbers(images, texts):
    return images.detach().double().numpy(), texts.detach().double().numpy()


def log_softmax(row):
    return row - math.log(sum(math.exp(value) for value in row))


def scaled_cosines(images, texts, log_scale=LOG_SCALE):
    images, texts = numbers(images, texts)
    return np.array(
        [[math.exp(log_scale) * i @ t / np.linalg.norm(i) / np.linalg.norm(t) for t in texts] for i in images]
    )


def info_nce(logits, positives):
    """The mean over rows and both directions of the mean over positives of -log p."""
    total = 0.0
    for matrix in (logits, logits.T):
        for row, values in enumerate(matrix):
            total -= np.mean([log_softmax(values)[column] for column in positives[row]])
    return total / 2 / len(logits)


def test_clip_loss():
    images, texts, scale, ids = batch()
    expected = info_nce(scaled_cosines(images, texts), [[row] for row in range(5)])
    assert ClipLoss()(images, texts, scale, ids).item() == pytest.approx(expected, abs=1e-5)


def test_id_infonce_shares_the_target_among_captions_of_an_image():
    images, texts, scale, ids = batch()
    positives = [[column for column in range(5) if ids[column] == ids[row]] for row in range(5)]
    expected = info_nce(scaled_cosines(images, texts), positives)
    assert IdInfoNCE()(images, texts, scale, ids).item() == pytest.approx(expected, abs=1e-5)


def test_id_infonce_is_clip_loss_without_repeats():
    inputs = batch(ids=(5, 4, 9, 2))
    torch.testing.assert_close(IdInfoNCE()(*inputs), ClipLoss()(*inputs))


def test_soft_targets_is_seed_1():
    images, texts, scale, ids = batch()
    i, t = numbers(images, texts)
    temperature, total = 0.7, 0.0
    logits = t @ i.T / temperature
    targets = np.exp([log_softmax(row) for row in (i @ i.T + t @ t.T) / 2 * temperature])
    for row in range(5):
        texts_loss = -sum(targets[row, j] * log_softmax(logits[row])[j] for j in range(5))
        images_loss = -sum(targets[j, row] * log_softmax(logits[:, row])[j] for j in range(5))
        total += (texts_loss + images_loss) / 2 / 5
    found = SoftTargets(temperature=temperature)(images, texts, scale, ids)
    assert found.item() == pytest.approx(total, abs=1e-5)
    found.backward()
    assert float(scale.grad) == 0


def test_soft_targets_are_not_detached():
    images, texts, scale, ids = batch()
    gradient = torch.autograd.grad(SoftTargets()(images, texts, scale, ids), images)[0]

    def value(x):
        return float(SoftTargets()(x.float(), texts, scale, ids).detach())

    step = torch.zeros(5, 4, dtype=torch.float64)
    step[1, 2] = 1e-2
    slope = (value(images.detach() + step) - value(images.detach() - step)) / 2e-2
    assert float(gradient[1, 2]) == pytest.approx(slope, rel=0.01)


def test_sigmoid():
    images, texts, scale, ids = batch()
    logits = scaled_cosines(images, texts) - 2.5
    total = 0.0
    for row in range(5):
        for column in range(5):
            sign = 1 if ids[row] == ids[column] else -1
            total += math.log(1 + math.exp(-sign * logits[row, column]))
    loss = Sigmoid(bias=-2.5)
    found = loss(images, texts, scale, ids)
    assert found.item() == pytest.approx(total / 5, abs=1e-5)
    found.backward()
    assert loss.bias.grad is not None


@pytest.mark.parametrize("loss", [ClipLoss(), IdInfoNCE(), Sigmoid(bias=-1.0)])
def test_gradient_of_the_temperature(loss):
    images, texts, scale, ids = batch()
    loss(images, texts, scale, ids).backward()
    above, below = (loss(images, texts, torch.tensor(LOG_SCALE + d), ids).item() for d in (1e-2, -1e-2))
    assert scale.grad.item() == pytest.approx((above - below) / 2e-2, rel=0.01)


@pytest.mark.parametrize("kind", LOSSES)
def test_half_precision_features_are_summed_in_float32(kind):
    images, texts, scale, ids = batch()
    halves = images.detach().bfloat16(), texts.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kind()(*halves, scale, ids)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kind()(*(x.float() for x in halves), scale, ids))


def test_a_model_that_knows_nothing_is_at_chance():
    same = torch.ones(8, 4)
    for loss in (ClipLoss(), IdInfoNCE()):
        assert float(loss(same, same, torch.tensor(2.0), torch.arange(8))) == pytest.approx(math.log(8), abs=1e-5)


@pytest.mark.parametrize(("before", "after"), [(5.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)])
def test_logit_scale_is_clamped(before, after):
    model = tiny_model()
    assert float(model.logit_scale.detach()) == pytest.approx(math.log(1 / 0.07))
    model.logit_scale.data.fill_(before)
    model.clamp_logit_scale()
    assert float(model.logit_scale.detach()) == pytest.approx(after)
    assert model.logit_scale.requires_grad
