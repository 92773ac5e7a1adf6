"""Word by word: what is chosen, with which probability, and how gradients flow from it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.captioner.constraints import constrain, constraints_of
from models.captioner.decoding import Decoded, decode, decode_beams, truncate
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from tests.helpers.tiny_captioner import grids, log_probs_after, tiny_captioner, vocabulary
from utils.errors import UserError

METHODS = {
    "greedy": Decoding(max_words=8),
    "sample": Decoding(method="sample", max_words=8, samples_per_image=3),
    "beam": Decoding(method="beam", max_words=8, beam_size=3),
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_greedy_takes_the_likeliest_word():
    model, grid = tiny_captioner(), grids(4)
    decoded = decode(model, grid, METHODS["greedy"], vocabulary())
    for image in range(4):
        prefix, total = [], 0.0
        for position in range(8):
            log_probs = log_probs_after(model, grid[image : image + 1], prefix)
            best = int(log_probs.argmax())
            assert decoded.tokens[image, position] == best
            assert decoded.log_probs[image, position].item() == pytest.approx(log_probs[best].item(), abs=1e-5)
            prefix.append(best)
            total += log_probs[best].item()
            if not best:
                break
        assert decoded.log_probs[image].sum().item() == pytest.approx(total, abs=1e-4)
        assert not decoded.tokens[image, len(prefix) :].any()
        assert not decoded.log_probs[image, len(prefix) :].any()
        assert decoded.mask[image].sum() == len(prefix)


@pytest.mark.parametrize("method", METHODS)
def test_images_of_a_batch_do_not_mix(method):
    model, grid = tiny_captioner(), grids(5)
    decoding = METHODS[method] if method != "sample" else Decoding(method="sample", top_k=1, max_words=8)
    mask = torch.arange(5) < torch.tensor([[5], [1], [4], [5], [2]])
    together = decode(model, grid, decoding, vocabulary(), grid_mask=mask)
    assert len({tuple(row) for row in together.tokens.tolist()}) > 1
    for image in range(5):
        part = slice(image, image + 1)
        alone = decode(model, grid[part], decoding, vocabulary(), grid_mask=mask[part])
        assert torch.equal(together.tokens[part], alone.tokens)
        torch.testing.assert_close(together.log_probs[part], alone.log_probs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_ending_early_equals_going_on(method):
    """In a batch with a longer caption the same caption comes out as when the search stops with it."""
    model, grid = tiny_captioner(), grids(12)
    decoding = METHODS[method] if method != "sample" else Decoding(method="sample", top_k=1, max_words=8)
    together = decode(model, grid, decoding, vocabulary())
    lengths = together.mask.sum(dim=1).tolist()
    assert min(lengths) < 8, "no caption ends early"
    for image, length in enumerate(lengths):
        alone = decode(model, grid[image : image + 1], decoding, vocabulary())
        assert alone.tokens.shape == (1, 8)
        assert torch.equal(alone.tokens[0], together.tokens[image])
        torch.testing.assert_close(alone.log_probs[0], together.log_probs[image], atol=1e-5, rtol=1e-5)
        assert not alone.tokens[0, length:].any()


def test_decoding_stops_when_all_captions_have_ended(monkeypatch):
    model, steps = tiny_captioner(end_bias=100.0), []
    step = model.step
    monkeypatch.setattr(model, "step", lambda *arguments: steps.append(1) or step(*arguments))
    for decoding in METHODS.values():
        steps.clear()
        decoded = decode(model, grids(), decoding, vocabulary())
        assert decoded.tokens.shape[1] == decoded.log_probs.shape[1] == 8
        assert not decoded.tokens.any()
        assert decoded.mask.int().tolist() == [[1] + [0] * 7] * len(decoded.tokens)
        assert len(steps) == 1 if decoding.method != "beam" else len(steps) < 8


def test_captions_that_reach_max_words_have_no_end():
    model = tiny_captioner(end_bias=-100.0)
    for decoding in METHODS.values():
        decoded = decode(model, grids(), decoding, vocabulary())
        assert decoded.tokens.all()
        assert decoded.mask.all()
        assert (decoded.log_probs <= 0).all()


def test_the_mask_ends_with_the_first_zero():
    tokens = torch.tensor([[3, 4, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4], [1, 2, 3, 0]])
    mask = Decoded(tokens, torch.zeros(4, 4)).mask
    assert mask.int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_samples_repeat_with_a_generator():
    model, grid, decoding = tiny_captioner(), grids(), METHODS["sample"]
    first = decode(model, grid, decoding, vocabulary(), generator=generator(5))
    again = decode(model, grid, decoding, vocabulary(), generator=generator(5))
    other = decode(model, grid, decoding, vocabulary(), generator=generator(6))
    assert first.tokens.shape == (9, 8)
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.log_probs, again.log_probs)
    assert not torch.equal(first.tokens, other.tokens)


def test_samples_belong_to_their_images():
    """Row i n + j is sample j of image i: its log-probabilities are those of that image."""
    model, grid = tiny_captioner(), grids()
    decoded = decode(model, grid, METHODS["sample"], vocabulary(), generator=generator())
    for row in range(9):
        image = row // 3
        for position in range(int(decoded.mask[row].sum())):
            expected = log_probs_after(model, grid[image : image + 1], decoded.tokens[row, :position].tolist())
            chosen = expected[decoded.tokens[row, position]].item()
            assert decoded.log_probs[row, position].item() == pytest.approx(chosen, abs=1e-4)


def test_samples_follow_the_distribution_at_the_temperature():
    model, grid, count = tiny_captioner(vocab_size=3), grids(1), 4000
    for temperature in (0.5, 1.0, 2.0):
        decoding = Decoding(method="sample", max_words=1, samples_per_image=count, temperature=temperature)
        decoded = decode(model, grid, decoding, vocabulary(3), generator=generator())
        shares = decoded.tokens.flatten().bincount(minlength=4) / count
        expected = (log_probs_after(model, grid, []) / temperature).softmax(dim=0)
        torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)  # four standard deviations
        torch.testing.assert_close(decoded.log_probs[:, 0], expected.log()[decoded.tokens[:, 0]], atol=1e-5, rtol=1e-5)


def kept(probabilities: list[float], top_k: int | None, top_p: float | None) -> list[int]:
    """The rule of truncation in plain words."""
    order = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])[:top_k]
    if top_p is None:
        return sorted(order)
    total = sum(probabilities[token] for token in order)
    for count in range(1, len(order) + 1):
        if sum(probabilities[token] for token in order[:count]) / total >= top_p:
            return sorted(order[:count])
    return sorted(order)


@pytest.mark.parametrize(
    ("top_k", "top_p"),
    [(1, None), (3, None), (99, None), (None, 1e-9), (None, 0.5), (None, 0.95), (None, 1.0), (4, 0.7)],
)
def test_truncation_equals_the_rule(top_k, top_p):
    scores = torch.randn(50, 8, generator=generator()) * 2
    scores[0] = torch.tensor([0.0, 1, 2, 3, 4, 5, 6, -torch.inf])  # one is forbidden already
    found = truncate(scores, top_k, top_p)
    for row, values in zip(scores, found, strict=True):
        expected = kept(row.softmax(dim=0).tolist(), top_k, top_p if top_p != 1 else None)
        expected = [token for token in expected if row[token].isfinite()]
        assert values.isfinite().nonzero().flatten().tolist() == expected
        assert torch.equal(values[expected], row[expected])


def test_equal_scores_are_truncated_all_the_same():
    assert truncate(torch.zeros(1, 6), 2, None).isfinite().sum() == 2
    assert truncate(torch.zeros(1, 6), None, 0.5).isfinite().sum() == 3


def test_log_probs_of_truncated_samples_are_those_they_were_drawn_with():
    model, grid = tiny_captioner(), grids(1)
    decoding = Decoding(method="sample", max_words=1, samples_per_image=200, top_k=2)
    decoded = decode(model, grid, decoding, vocabulary(), generator=generator())
    log_probs, best = log_probs_after(model, grid, []).topk(2)
    assert set(decoded.tokens.flatten().tolist()) == set(best.tolist())
    expected = {int(token): value.item() for token, value in zip(best, log_probs.log_softmax(0), strict=True)}
    for token, value in zip(decoded.tokens.flatten().tolist(), decoded.log_probs.flatten().tolist(), strict=True):
        assert value == pytest.approx(expected[token], abs=1e-5)


def log_probs_of(model: Captioner, grid: Tensor, tokens: Tensor, decoding: Decoding) -> Tensor:
    """Those of chosen tokens (m, t), by one pass over the whole captions and the rules at each position."""
    rules = constraints_of(decoding, vocabulary(unknown=True))
    inputs = F.pad(tokens[:, :-1], (1, 0)).view(len(grid), -1, tokens.shape[1])
    log_probs = []
    for position, scores in enumerate(model(grid, inputs).flatten(0, 1).unbind(1)):
        if decoding.method == "sample":
            scores = constrain(scores, tokens[:, :position], rules).log_softmax(-1)
        else:
            scores = constrain(scores.log_softmax(-1), tokens[:, :position], rules)
        log_probs.append(scores.gather(-1, tokens[:, position : position + 1]))
    found = Decoded(tokens, torch.cat(log_probs, dim=1))
    return found.log_probs.where(found.mask, 0.0)


@pytest.mark.parametrize(
    "options",
    [
        {"suppress_unknown": False},
        {"no_repeat": True},
        {"block_trigrams": True},
        {"block_trigrams": True, "upstream_compat": True},
        {"no_bad_endings": True},
    ],
    ids=lambda options: ", ".join(options),
)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_equal_those_of_a_pass_over_the_caption(method, options):
    """In evaluation mode, that is without dropout."""
    model, grid = tiny_captioner(end_bias=-1.0), grids()
    decoding = Decoding(**(vars(METHODS[method]) | options))
    decoded = decode(model, grid, decoding, vocabulary(unknown=True), generator=generator(), with_grad=True)
    weights = torch.rand(decoded.tokens.shape, generator=generator(1))
    (decoded.log_probs * weights).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    expected = log_probs_of(model, grid, decoded.tokens, decoding)
    torch.testing.assert_close(decoded.log_probs, expected, atol=1e-5, rtol=1e-4)
    (expected * weights).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_only_when_asked(method):
    model = tiny_captioner()
    assert not decode(model, grids(), METHODS[method], vocabulary()).log_probs.requires_grad
    assert decode(model, grids(), METHODS[method], vocabulary(), with_grad=True).log_probs.requires_grad
    assert not model.training


def test_samples_in_training_mode_have_dropout_and_finite_gradients():
    model, grid = tiny_captioner().train(), grids()
    options = Decoding(
        method="sample", max_words=8, samples_per_image=4, no_repeat=True, block_trigrams=True, top_p=0.9
    )
    torch.manual_seed(0)
    first = decode(model, grid, options, vocabulary(unknown=True), generator=generator(), with_grad=True)
    second = decode(model, grid, options, vocabulary(unknown=True), generator=generator(), with_grad=True)
    assert not torch.equal(first.log_probs, second.log_probs)
    first.log_probs.sum().backward()
    assert model.training
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_mixed_precision_decodes():
    model, grid = tiny_captioner(), grids()
    for decoding, dtype in itertools.product(METHODS.values(), (torch.float16, torch.bfloat16)):
        with torch.autocast("cpu", dtype=dtype):
            decoded = decode(model, grid.to(dtype), decoding, vocabulary(), generator=generator())
        assert decoded.log_probs.dtype == torch.float32
        assert decoded.log_probs.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "beams"}, "method=beams: did you mean beam"),
        ({"method": "gumbel"}, "method=gumbel: draws what method=sample temperature=1 draws"),
        ({"max_words": 0}, "max_words=0: expected a whole number"),
        ({"beam_size": 2.5}, "beam_size=2.5"),
        ({"samples_per_image": 5}, "method=greedy gives one caption"),
        ({"method": "beam", "samples_per_image": 5}, "decode_beams for all beams"),
        ({"temperature": 0}, "temperature=0: expected a number above 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_p": 0.0}, "top_p=0.0: expected a number above 0, 1 at most"),
        ({"top_p": 1.5}, r"top_p=1\.5"),
        ({"length_penalty": "wu"}, "length_penalty=wu: expected none, wu_A or avg_A"),
        ({"length_penalty": "avg_-1"}, "length_penalty=avg_-1"),
        ({"length_penalty": "none_1"}, "length_penalty=none_1"),
        ({"length_penalty": ""}, "length_penalty=: expected"),
        ({"length_penalty": 1}, "length_penalty=1: expected none, wu_A or avg_A"),
        ({"temperature": "hot"}, "temperature=hot: expected a number"),
        ({"temperature": float("inf")}, "temperature=inf: expected a number"),
        ({"top_p": "most"}, "top_p=most: expected a number"),
        ({"no_repeat": "maybe"}, "no_repeat=maybe: expected true or false"),
    ],
)
def test_wrong_options_are_told(options, message):
    with pytest.raises(UserError, match=message):
        Decoding(**options)


def test_what_does_not_fit_the_model_is_told():
    model = tiny_captioner()
    with pytest.raises(UserError, match="max_words=20: this captioner was made for 8"):
        decode(model, grids(), Decoding(), vocabulary())
    with pytest.raises(UserError, match="a vocabulary of 5 words for a captioner of 7"):
        decode(model, grids(), METHODS["beam"], vocabulary(5))
    with pytest.raises(UserError, match="method=greedy: expected beam"):
        decode_beams(model, grids(), METHODS["greedy"], vocabulary())
