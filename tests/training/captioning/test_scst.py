"""Self-critical training against what can be computed by hand, and on a reward that is easy to earn."""

from itertools import product

import pytest
import torch

from models.captioner.decoding import Decoded, decode
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from models.captioner.vocabulary import Vocabulary
from pairs.loading import Loading
from tests.helpers.toy_captions import Says, fresh_captioner, toy_data
from training.captioning.data import parts
from training.captioning.rewards import RewardSum
from training.captioning.scst import SelfCritical, advantages, interleaved, policy_loss
from training.compute import Compute
from training.optimization import adamw
from utils.errors import UserError

CPU = Compute(torch.device("cpu"))


def objective(reward=None, **changed) -> SelfCritical:
    rewards = RewardSum(rewards={"says": reward or Says("red")}, weights={"says": 1.0})
    return SelfCritical(reward=rewards, **({"max_words": 8} | changed))


def test_gradient_of_one_word_is_the_closed_form():
    """d/dz of -A log softmax(z)[k] is A (p - onehot(k))."""
    logits = torch.randn(6, 4, requires_grad=True)
    chosen, advantage = torch.tensor([0, 1, 2, 3, 1, 1]), torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -0.1])
    log_probs = logits.log_softmax(dim=1).gather(1, chosen[:, None])
    policy_loss(log_probs, torch.ones(6, 1, dtype=torch.bool), advantage).backward()
    onehot = torch.nn.functional.one_hot(chosen, 4)
    torch.testing.assert_close(logits.grad, advantage[:, None] * (logits.detach().softmax(dim=1) - onehot))


def test_the_first_end_counts_and_nothing_behind_it():
    tokens = torch.tensor([[3, 1, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]])
    mask = Decoded(tokens, torch.zeros(3, 4)).mask
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False], [True] * 4]
    log_probs = torch.full((3, 4), -1.0, requires_grad=True)
    policy_loss(log_probs, mask, torch.tensor([1.0, 10.0, 100.0])).backward()
    assert log_probs.grad.tolist() == [[-1, -1, -1, 0], [-10, 0, 0, 0], [-100] * 4]


def test_advantages():
    rewards = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert advantages(rewards, torch.tensor([[2.0], [1.0]])).tolist() == [[-1, 0, 4], [-1, -1, 2]]
    assert advantages(rewards, None).tolist() == [[-3, -1.5, 4.5], [-1.5, -1.5, 3]]
    assert interleaved(["a", "b", "c", "d"], ["x", "y"], 2) == ["a", "b", "x", "c", "d", "y"]


class Constant(Says):
    def __call__(self, images, captions):
        return torch.full((len(captions),), 3.7)


@pytest.mark.parametrize("baseline", ["greedy", "leave_one_out"])
def test_constant_reward_teaches_nothing(baseline):
    data = toy_data()
    task, model = objective(Constant(), baseline=baseline), fresh_captioner(data, dropout=0.2)
    task.prepare(data, CPU.device)
    values = task.backward(model, next(data.train.batches(Loading(4), epoch=0)), CPU)
    assert values["loss"] == pytest.approx(0, abs=1e-5)
    assert float(values["reward/says"]) == pytest.approx(3.7)
    assert float(values["advantage"]) == pytest.approx(0, abs=1e-6)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-5


@pytest.mark.parametrize("baseline", ["greedy", "leave_one_out"])
def test_a_reward_without_baseline_counts_as_it_is(baseline):
    """As the grammar's with `use_grammar_baseline: false` of the original: here of two constants one is left."""
    data = toy_data()
    rewards = {"compared": Constant(), "raw": Constant()}
    reward = RewardSum(rewards=rewards, weights={"compared": 5.0, "raw": 2.0}, without_baseline=["raw"])
    task, model = SelfCritical(reward=reward, max_words=8, baseline=baseline), fresh_captioner(data)
    task.prepare(data, CPU.device)
    values = task.backward(model, next(data.train.batches(Loading(4), epoch=0)), CPU)
    assert float(values["advantage"]) == pytest.approx(2 * 3.7)
    assert task.settings["without_baseline"] == ["raw"]
    with pytest.raises(
        UserError, match=r"reward.without_baseline=rew: did you mean raw\? Expected one of compared, raw"
    ):
        RewardSum(rewards=rewards, weights=reward.weights, without_baseline=["rew"])


@pytest.mark.parametrize("number", [1, 2, 3])
def test_gradient_is_that_of_the_mean_over_all_words(number):
    """The same samples again, drawn and judged by hand, in as many parts; the divisor is that of all parts."""
    data = toy_data()
    reward, model = Says("red", "star"), fresh_captioner(data, dropout=0.2)
    batch = next(data.train.batches(Loading(5), epoch=0))
    task = objective(reward, samples_per_image=3)
    task.prepare(data, CPU.device)
    torch.manual_seed(5)
    value = task.backward(model, batch, CPU, number)["loss"]
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.zero_grad()
    torch.manual_seed(5)
    total, words = torch.zeros(()), 0
    for part in parts(batch, number, CPU.device):
        sampling = Decoding(method="sample", samples_per_image=3, max_words=8)
        sampled = decode(model.train(), part.grids, sampling, data.vocabulary, with_grad=True)
        greedy = decode(model.eval(), part.grids, Decoding(max_words=8), data.vocabulary)
        for row in range(len(sampled.tokens)):
            own, best = (
                sum(word in reward.words for word in data.vocabulary.decode(tokens.tolist()).split())
                for tokens in (sampled.tokens[row], greedy.tokens[row // 3])
            )
            length = int(sampled.mask[row].sum())
            total = total - (own - best) * sampled.log_probs[row, :length].sum()
            words += length
    (total / words).backward()
    assert value == pytest.approx(float(total.detach()) / words, abs=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_sampled_gradient_is_the_true_one_on_average():
    """Two words, two positions: all seven captions can be listed, and the gradient of the expected reward computed."""
    torch.manual_seed(0)
    sizes = {"width": 8, "layers": 1, "heads": 1, "hidden": 8, "dropout": 0.0, "grid_dropout": 0.0}
    model = Captioner(vocab_size=2, grid_width=4, max_words=2, **sizes)
    model.initialize()
    words, grid = Vocabulary(["good", "bad"]), torch.randn(1, 3, 4)

    def reward(tokens: list[int]) -> float:
        return 2.0 * tokens.count(1) - 1.0 * tokens.count(2) + 0.5 * tokens.count(0)

    expected = torch.zeros(())
    for caption in [[0, 0]] + [[first, second] for first, second in product((1, 2), (0, 1, 2))]:
        log_probs = model(grid, torch.tensor([[[0, caption[0]]]]))[0, 0].log_softmax(dim=1)
        log_prob = log_probs[0, caption[0]] + (log_probs[1, caption[1]] if caption[0] else 0)
        expected = expected + log_prob.exp() * reward(caption)
    expected.backward()
    true = model.output.bias.grad.clone()
    model.zero_grad()

    samples = 20_000
    sampling = Decoding(method="sample", samples_per_image=samples, max_words=2)
    generator = torch.Generator().manual_seed(1)
    sampled = decode(model, grid, sampling, words, generator=generator, with_grad=True)
    rewards = torch.tensor([reward(row) for row in sampled.tokens.tolist()])
    policy_loss(sampled.log_probs, sampled.mask, advantages(rewards[None], None)[0]).backward()
    # One sample's gradient has a deviation of about 1.5: 0.05 is more than four standard errors.
    torch.testing.assert_close(-model.output.bias.grad / samples, true, atol=0.05, rtol=0)
    assert true.abs().max() > 0.2


@pytest.mark.parametrize("baseline", ["greedy", "leave_one_out"])
def test_reward_rises(baseline):
    data = toy_data()
    model, task = fresh_captioner(data), objective(Says("star"), baseline=baseline)
    task.prepare(data, CPU.device)
    update = adamw(list(model.named_parameters()), lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    means = []
    for epoch in range(25):
        update.zero_grad()
        values = task.backward(model, next(data.train.batches(Loading(12), epoch=epoch)), CPU)
        update.step()
        means.append(float(values["reward/says"]))
    assert sum(means[-3:]) / 3 > 2 + sum(means[:3]) / 3


def test_greedy_captions_are_without_dropout_and_training_goes_on_with_it():
    data = toy_data()
    model, task = fresh_captioner(data, dropout=0.5), objective(Says("red"))
    task.prepare(data, CPU.device)
    batch = next(data.train.batches(Loading(12), epoch=0))
    model.train()
    first, second = (task._greedy_captions(model, batch, CPU) for _ in range(2))
    assert first == second
    assert model.training


@pytest.mark.parametrize("compat", [False, True])
def test_unk_is_said_only_where_the_original_says_it(compat):
    """To a captioner that likes UNK best, "says UNK" pays with the original's rule alone."""
    vocabulary = Vocabulary(["red", "UNK"])
    model = Captioner(vocab_size=2, grid_width=4, width=8, layers=1, heads=2, hidden=8, max_words=8)
    torch.nn.init.zeros_(model.output.weight)
    torch.nn.init.constant_(model.output.bias[2:], 20.0)
    own = objective(upstream_compat=compat)
    for decoding in (own._sampling, own._greedy):
        decoded = decode(model, torch.zeros(1, 3, 4), decoding, vocabulary)
        assert bool((decoded.tokens == vocabulary.unknown_id).any()) == compat


def test_defaults_are_those_of_the_paper():
    """Five samples an image, against its greedy caption."""
    data, task = toy_data(), objective()
    assert (task.settings["samples_per_image"], task.settings["baseline"]) == (5, "greedy")
    task.prepare(data, CPU.device)
    judged, reward = [], task.reward.rewards["says"]
    task.reward.rewards["says"] = lambda images, captions: judged.extend(captions) or reward(images, captions)
    task.backward(fresh_captioner(data), next(data.train.batches(Loading(4), epoch=0)), CPU)
    assert len(judged) == 4 * (5 + 1)


def test_wrong_options_are_answered_in_one_line():
    with pytest.raises(UserError, match="baseline=none"):
        objective(baseline="none")
    with pytest.raises(UserError, match="leave_one_out"):
        objective(baseline="leave_one_out", samples_per_image=1)
