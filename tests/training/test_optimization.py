"""Parameter groups, schedules and the moving average against their formulas."""

import math

import pytest
from torch import nn

from models.clip.model import CLIP
from tests.helpers.small_data import RESNET, TEXT
from training.optimization import adamw, learning_rates, moving_average
from training.schedules import constant, cosine, noam, plateau
from training.task import Goal
from utils.errors import UserError


def names_by_decay(model, optimizer) -> tuple[set[str], set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [({names[id(p)] for p in g["params"]}, g["weight_decay"]) for g in optimizer.param_groups]
    return tuple({n for found, decay in groups if bool(decay) == wanted for n in found} for wanted in (True, False))


def test_gains_biases_and_the_logit_scale_do_not_decay():
    model = CLIP(RESNET(), TEXT())
    decayed, others = names_by_decay(model, adamw(list(model.named_parameters()), lr=1e-3))
    assert decayed | others == {name for name, _ in model.named_parameters()}
    assert not decayed & others
    assert {"logit_scale", "visual.bn1.weight", "text.ln_final.bias", "visual.attnpool.c_proj.bias"} <= others
    assert {"visual.conv1.weight", "text.token_embedding.weight", "text.text_projection"} <= decayed
    assert all(dict(model.named_parameters())[name].ndim >= 2 for name in decayed)


def test_towers_have_their_own_rates():
    model = CLIP(RESNET(), TEXT())
    model.text.token_embedding.requires_grad_(False)
    towers = {"visual": {"lr": 1e-4, "weight_decay": 0.0}, "visual.attnpool": {"lr": 1e-5}}
    optimizer = adamw(list(model.named_parameters()), lr=1e-3, weight_decay=0.1, towers=towers)
    assert learning_rates(optimizer) == {"all": 1e-3, "visual": 1e-4, "visual.attnpool": 1e-5}
    decayed, others = names_by_decay(model, optimizer)
    assert "visual.attnpool.c_proj.weight" in decayed
    assert "visual.conv1.weight" in others
    assert "text.token_embedding.weight" not in decayed | others  # frozen
    model.visual.requires_grad_(False)  # seed 1 with `trainable = False`
    assert learning_rates(adamw(list(model.named_parameters()), lr=1e-3, towers=towers)) == {"all": 1e-3}
    with pytest.raises(UserError, match=r"optimizer\.towers: no weights in visual\.trunk; found .*visual\.conv1"):
        adamw(list(model.named_parameters()), lr=1e-3, towers={"visual.trunk": {"lr": 1e-4}})


def test_cosine_with_warm_up():
    optimizer = adamw(list(nn.Linear(2, 2).named_parameters()), lr=1.0)
    share = cosine(optimizer, 110, warmup_steps=10, final_share=0.01).lr_lambdas[0]
    assert [share(step) for step in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1.0, 1.0])
    assert share(60) == pytest.approx(0.01 + 0.99 * 0.5)
    assert share(85) == pytest.approx(0.01 + 0.99 * (1 + math.cos(0.75 * math.pi)) / 2)
    assert share(110) == share(1000) == pytest.approx(0.01)
    assert cosine(optimizer, 1, warmup_steps=0).lr_lambdas[0](0) == 1


def test_cosine_sets_each_groups_rate():
    model = nn.Linear(2, 2)
    optimizer = adamw(list(model.named_parameters()), lr=1.0, towers={"bias": {"lr": 0.5}})
    schedule = cosine(optimizer, 10, warmup_steps=2)
    assert learning_rates(optimizer) == {"all": 0.5, "bias": 0.25}
    optimizer.step()
    for _ in range(6):
        schedule.step()
    assert learning_rates(optimizer) == pytest.approx({"all": 0.5, "bias": 0.25})


def test_noam_is_the_papers_formula():
    """With the peak (width x warm-up)^-0.5 it is width^-0.5 min(s^-0.5, s warm-up^-1.5)."""
    width, warmup, steps = 512, 20_000, 25 * 567
    share = noam(adamw(list(nn.Linear(2, 2).named_parameters()), lr=1.0), steps, warmup_steps=warmup).lr_lambdas[0]
    for s in (1, 100, 9999, steps, 20_000, 20_001, 80_000):
        expected = width**-0.5 * min(s**-0.5, s * warmup**-1.5)
        assert (width * warmup) ** -0.5 * share(s - 1) == pytest.approx(expected)
    # The original's run ends before it has its peak rate of 3.125e-4.
    assert 3.125e-4 * share(steps - 1) == pytest.approx(2.215e-4, rel=1e-3)


def test_noam_warms_up_for_a_share_of_the_run():
    optimizer = adamw(list(nn.Linear(2, 2).named_parameters()), lr=1.0)
    schedule = noam(optimizer, 40, warmup_share=0.1)
    rates = []
    for _ in range(8):
        rates.append(learning_rates(optimizer)["all"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 0.8**0.5, (4 / 6) ** 0.5, (4 / 7) ** 0.5, 0.5**0.5])


@pytest.mark.parametrize("given", [{}, {"warmup_steps": 10, "warmup_share": 0.1}])
def test_noam_takes_one_warm_up(given):
    with pytest.raises(UserError, match=r"warmup_steps=.*expected one of them"):
        noam(adamw(list(nn.Linear(2, 2).named_parameters()), lr=1.0), 40, **given)


def test_constant_is_constant():
    optimizer = adamw(list(nn.Linear(2, 2).named_parameters()), lr=0.5, weight_decay=0.0)
    schedule = constant(optimizer, 10)
    optimizer.step()
    schedule.step()
    schedule.load_state_dict(schedule.state_dict())
    assert learning_rates(optimizer) == {"all": 0.5}
    assert all(group["weight_decay"] == 0 for group in optimizer.param_groups)


def test_goal_tells_the_better_of_two():
    metrics = [{"cider": 1.0, "loss": 3.0}, {"cider": 0.5, "loss": 2.0}]
    assert [Goal("loss").cost(found) for found in metrics] == [3, 2]
    assert [Goal("cider", highest=True).cost(found) for found in metrics] == [-1, -0.5]
    with pytest.raises(UserError, match="measured are only cider, loss"):
        Goal("clip_s").cost(metrics[0])


def test_plateau_waits_for_patience_epochs():
    optimizer = adamw(list(nn.Linear(2, 2).named_parameters()), lr=1.0)
    schedule = plateau(optimizer, 100, factor=0.8, patience=1)
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.0, 1.0):
        schedule.step(loss)
        rates.append(learning_rates(optimizer)["all"])
    assert rates == pytest.approx([1, 1, 1, 0.8, 0.8])


def test_moving_average():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = moving_average(model, decay=0.5)
    model.weight.data.fill_(1.0)
    average.update_parameters(model)  # (1 + 1) / (10 + 1)
    assert average.module.weight.item() == pytest.approx(1 - 2 / 11)
    average.n_averaged.fill_(100)
    average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(1 - 1 / 11)
    assert model.weight.item() == 1


def test_running_statistics_are_averaged_and_batches_counted():
    """Of BatchNorm: means and variances belong to the weights they were seen with."""
    model = nn.BatchNorm1d(1)
    average = moving_average(model, decay=0.5)
    for value in (8.0, 2.0):
        model.running_mean.fill_(value)
        model.num_batches_tracked += 3
        average.update_parameters(model)
    first = 8 * (1 - 2 / 11)
    assert average.module.running_mean.item() == pytest.approx(first * 3 / 12 + 2 * (1 - 3 / 12))
    assert average.module.num_batches_tracked.item() == 6
