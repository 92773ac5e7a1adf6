"""Beam search against a slow one in plain Python, and against trying all captions."""

import itertools

import pytest
import torch

from models.captioner import beam
from models.captioner.decoding import decode, decode_beams
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from tests.helpers.tiny_captioner import grids, log_probs_after, tiny_captioner, vocabulary

PENALTIES = ["none", "wu_0.9", "avg_1", "avg_2"]


def divisor(length_penalty: str, length: int) -> float:
    return {
        "none": 1.0,
        "wu_0.9": ((5 + length) / 6) ** 0.9,
        "avg_1": float(length),
        "avg_2": float(length**2),
    }[length_penalty]


def plain_beam_search(model: Captioner, grid: torch.Tensor, decoding: Decoding) -> list[tuple[float, list[int]]]:
    """As its description: no cache, no batch, always to the last step. (score, tokens), best first."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []
    for position in range(decoding.max_words):
        candidates = [
            (total + log_prob, [*prefix, token])
            for total, prefix in live
            for token, log_prob in enumerate(log_probs_after(model, grid, prefix).tolist())
        ]
        candidates = sorted(candidates, reverse=True)[: decoding.beam_size]
        live = []
        for total, tokens in candidates:
            if tokens[-1] == 0 or position + 1 == decoding.max_words:
                done.append((total / divisor(decoding.length_penalty, position + 1), tokens))
            else:
                live.append((total, tokens))
    return sorted(done, reverse=True)[: decoding.beam_size]


@pytest.mark.parametrize("length_penalty", PENALTIES)
@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_all_beams_equal_the_plain_search(beam_size, length_penalty):
    model, grid = tiny_captioner(vocab_size=5, max_words=5), grids(4)
    decoding = Decoding(method="beam", max_words=5, beam_size=beam_size, length_penalty=length_penalty)
    beams = decode_beams(model, grid, decoding, vocabulary(5))
    assert beams.tokens.shape == (4, beam_size, 5)
    for image in range(4):
        expected = plain_beam_search(model, grid[image : image + 1], decoding)
        for place, (score, tokens) in enumerate(expected):
            assert beams.tokens[image, place].tolist() == tokens + [0] * (5 - len(tokens))
            assert beams.scores[image, place].item() == pytest.approx(score, abs=1e-4)
            total = beams.log_probs[image, place].sum().item()
            assert total == pytest.approx(score * divisor(length_penalty, len(tokens)), abs=1e-4)
        assert beams.scores[image, len(expected) :].isneginf().all()
        assert not beams.tokens[image, len(expected) :].any()


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy(seed):
    model, grid = tiny_captioner(seed=seed), grids(6, seed=seed)
    greedy = decode(model, grid, Decoding(max_words=8), vocabulary())
    one = decode(model, grid, Decoding(method="beam", beam_size=1, max_words=8), vocabulary())
    assert torch.equal(one.tokens, greedy.tokens)
    torch.testing.assert_close(one.log_probs, greedy.log_probs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length_penalty", PENALTIES)
@pytest.mark.parametrize(("size", "max_words"), [(3, 4), (5, 3), (1, 4)])
def test_with_room_for_all_prefixes_the_best_of_all_captions_is_found(size, max_words, length_penalty):
    model, grid = tiny_captioner(vocab_size=size, max_words=max_words), grids(2)
    width = sum(size**length for length in range(max_words + 1)) + size ** (max_words - 1)
    decoding = Decoding(method="beam", max_words=max_words, beam_size=width, length_penalty=length_penalty)
    found = decode_beams(model, grid, decoding, vocabulary(size))
    best = decode(model, grid, decoding, vocabulary(size))
    words = range(1, size + 1)
    captions = [
        [*caption, 0] if length < max_words else list(caption)
        for length in range(max_words + 1)
        for caption in itertools.product(words, repeat=length)
    ]
    inputs = torch.tensor([[0, *caption, *[0] * (max_words - len(caption))][: max_words + 1] for caption in captions])
    with torch.no_grad():
        log_probs = model(grid, inputs.expand(2, -1, -1)).log_softmax(-1)
    for image in range(2):
        scores = [
            sum(log_probs[image, row, position, token].item() for position, token in enumerate(caption))
            / divisor(length_penalty, len(caption))
            for row, caption in enumerate(captions)
        ]
        winner = captions[max(range(len(captions)), key=scores.__getitem__)]
        assert best.tokens[image].tolist() == winner + [0] * (max_words - len(winner))
        assert found.scores[image, 0].item() == pytest.approx(max(scores), abs=1e-4)
        assert found.scores[image].isfinite().sum() == len(captions), "every caption is found, each once"


def test_finished_beams_are_not_continued(monkeypatch):
    """Nothing that grows out of a beam with an end may be among the open or the finished ones."""
    seen = []
    original = beam._continue

    def watched(live, log_probs, position):
        continued, parents = original(live, log_probs, position)
        seen.append((position, continued))
        return continued, parents

    monkeypatch.setattr(beam, "_continue", watched)
    model = tiny_captioner(vocab_size=3, end_bias=2.0)
    decoding = Decoding(method="beam", max_words=8, beam_size=4)
    beams = decode_beams(model, grids(4), decoding, vocabulary(3))
    alive = [h.tokens[h.scores.isfinite()][:, :position] for position, h in seen if position]
    assert any(len(tokens) for tokens in alive)
    assert all(tokens.all() for tokens in alive), "an end inside a beam that went on"
    for image in range(4):
        captions = [tuple(tokens) for tokens in beams.tokens[image].tolist()]
        assert len(set(captions)) == len(captions)


@pytest.mark.parametrize("length_penalty", PENALTIES)
def test_stopping_early_changes_nothing(length_penalty, monkeypatch):
    model, steps = tiny_captioner(max_words=12, end_bias=4.0), []
    decoding = Decoding(method="beam", max_words=12, beam_size=3, length_penalty=length_penalty)
    step = model.step
    monkeypatch.setattr(model, "step", lambda *arguments: steps.append(1) or step(*arguments))
    early = decode_beams(model, grids(4), decoding, vocabulary())
    taken = len(steps)
    monkeypatch.setattr(beam, "_is_settled", lambda *_: False)
    full = decode_beams(model, grids(4), decoding, vocabulary())
    for found, expected in zip(vars(early).values(), vars(full).values(), strict=True):
        assert torch.equal(found, expected)
    assert taken < 12 or length_penalty != "none"
    assert len(steps) == taken + 12


def test_a_length_penalty_prefers_longer_captions():
    model, grid = tiny_captioner(), grids(8)
    lengths = []
    for penalty in ("none", "wu_0.9", "avg_2"):
        decoding = Decoding(method="beam", max_words=8, beam_size=5, length_penalty=penalty)
        lengths.append(decode(model, grid, decoding, vocabulary()).mask.sum().item())
    assert lengths[0] < lengths[1] < lengths[2]


def test_the_best_beam_is_never_worse_than_greedy_here():
    """Not so in general; with these weights it is, and a beam that mixed up its rows would not be."""
    model, grid = tiny_captioner(), grids(8)
    greedy = decode(model, grid, Decoding(max_words=8), vocabulary()).log_probs.sum(1)
    best = decode(model, grid, Decoding(method="beam", max_words=8, beam_size=6), vocabulary()).log_probs.sum(1)
    assert (best >= greedy - 1e-5).all()
    assert (best > greedy + 1e-3).any()
