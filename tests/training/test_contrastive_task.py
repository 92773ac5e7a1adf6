"""Contrastive gradients: of batches in parts, of recomputed blocks; one step, clipped; and the validation."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from models.clip.model import CLIP
from pairs.batches import InputSize
from pairs.loading import Loading
from tests.helpers.small_data import RESNET, TEXT, VISION, Dropped, eight_pairs
from tests.helpers.training_runs import assert_same
from training.compute import Compute
from training.contrastive.losses import ClipLoss
from training.contrastive.task import ContrastiveTask, backward, encode, inputs_of, recall_at_1, validate
from training.fit import step
from training.optimization import adamw
from training.recompute import recompute_blocks

CPU = Compute(torch.device("cpu"))


def model_and_batch(vision=VISION, text=TEXT):
    torch.manual_seed(0)
    model = CLIP(vision(), text())
    model.initialize()
    pairs = eight_pairs().train
    batch = next(pairs.batches(InputSize(32), Loading(8), epoch=0))
    return model, batch


@pytest.mark.parametrize("loss", [ClipLoss(), ClipLoss(by_image=True)])
@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulated_gradient_is_that_of_the_whole_batch(loss, parts):
    model, batch = model_and_batch()
    value = backward(model, loss, batch, CPU)
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    assert backward(model, loss, batch, CPU, parts) == pytest.approx(value)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_dropout_is_the_same_both_times_in_parts():
    """Against the same parts with all their graphs kept."""
    model, batch = model_and_batch(text=Dropped)
    torch.manual_seed(3)
    value = backward(model, ClipLoss(), batch, CPU, 4)
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(3)
    parts = [encode(model, part, CPU) for part in inputs_of(batch, model, CPU.device).parts(4)]
    images, texts = (torch.cat(side) for side in zip(*parts, strict=True))
    loss = ClipLoss()(images, texts, model.logit_scale, batch.ids)
    loss.backward()
    assert value == pytest.approx(loss.item())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_recomputed_activations_give_the_same_gradient():
    model, batch = model_and_batch(vision=partial(RESNET))
    backward(model, ClipLoss(), batch, CPU)
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    keys = set(model.state_dict())
    model.zero_grad()
    recompute_blocks(model)
    assert sum(isinstance(module.forward, partial) for module in model.modules()) == 5
    backward(model, ClipLoss(), batch, CPU)
    assert set(model.state_dict()) == keys
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


@pytest.mark.parametrize("max_norm", [None, 0.01])
def test_gradients_are_scaled_down_to_the_norm(max_norm):
    """A step of plain gradient descent is as long as the gradient."""
    model, batch = model_and_batch()
    task = ContrastiveTask(model, ClipLoss(), eight_pairs())
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    values = step(task, torch.optim.SGD(model.parameters(), lr=1.0), batch, CPU, max_norm=max_norm)
    length = float((nn.utils.parameters_to_vector(model.parameters()).detach() - before).norm())
    assert float(values["gradient_norm"]) > 0.1
    assert length == pytest.approx(max_norm or float(values["gradient_norm"]), rel=1e-3)


def test_logit_scale_is_clamped_after_the_step():
    model, batch = model_and_batch()
    model.logit_scale.data.fill_(10.0)
    task = ContrastiveTask(model, ClipLoss(), eight_pairs())
    step(task, adamw(list(model.named_parameters()), lr=1e-3), batch, CPU)
    assert model.logit_scale.exp().item() == pytest.approx(100)


def test_validation_is_without_dropout_and_moves_no_running_statistics():
    model, _ = model_and_batch(vision=RESNET, text=Dropped)
    rows = eight_pairs().validation["squares"]
    before = copy.deepcopy(model.state_dict())
    found = validate(model.train(), ClipLoss(), rows, CPU, 8)
    assert_same(dict(model.state_dict()), dict(before))
    assert found == validate(model.train(), ClipLoss(), rows, CPU, 8)
    batch = rows.batch(rows.order(torch.Generator().manual_seed(0)), InputSize(32))
    with torch.no_grad():
        images, texts = encode(model.eval(), inputs_of(batch, model, CPU.device), CPU)
        assert found["loss"] == pytest.approx(ClipLoss()(images, texts, model.logit_scale, batch.ids).item())


def test_recall_counts_any_pair_of_the_id_and_ties_against():
    queries = torch.eye(3)
    assert recall_at_1(queries, torch.eye(3), torch.tensor([1, 2, 3])) == 1
    assert recall_at_1(queries, torch.eye(3)[[1, 0, 2]], torch.tensor([1, 1, 3])) == 1
    assert recall_at_1(queries, torch.ones(3, 3), torch.tensor([1, 2, 3])) == 0
