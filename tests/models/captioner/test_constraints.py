"""What captions may not say: the rules alone, then in all ways of decoding."""

import math
from itertools import pairwise

import pytest
import torch

from models.captioner.constraints import BAD_ENDINGS, constrain, constraints_of, no_bad_endings, no_repeat, trigrams
from models.captioner.decoding import decode
from models.captioner.options import Decoding
from models.captioner.vocabulary import UNK, Vocabulary
from tests.helpers.tiny_captioner import grids, tiny_captioner

WORDS = Vocabulary(["a", "dog", "on", "runs", "the", UNK])
METHODS = pytest.mark.parametrize("method", ["greedy", "sample", "beam"])


def forbidden(rule, prefix: list[int], size: int = 7) -> list[int]:
    scores = torch.randn(2, size, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([prefix, prefix], dtype=torch.long)
    found = rule(scores, rows)
    assert torch.equal(scores, torch.randn(2, size, generator=torch.Generator().manual_seed(0))), "changed in place"
    assert torch.equal(found[0].isneginf(), found[1].isneginf())
    left = found.isfinite()
    assert torch.equal(found[left], scores[left])
    return found[0].isneginf().nonzero().flatten().tolist()


@pytest.mark.parametrize(("prefix", "expected"), [([], []), ([3], [3]), ([3, 5], [5]), ([3, 3, 0], []), ([0], [])])
def test_no_repeat(prefix, expected):
    assert forbidden(no_repeat, prefix) == expected


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ([], []),
        ([1, 2], []),
        ([1, 2, 3], []),
        ([1, 2, 3, 1, 2], [3]),
        ([1, 2, 3, 1, 2, 4, 1, 2], [3, 4]),
        ([1, 2, 3, 2, 1], []),
        ([5, 5, 5], [5]),
        ([1, 2, 3, 1, 2, 0, 0, 0, 0], []),
    ],
)
def test_trigrams(prefix, expected):
    assert forbidden(trigrams(math.inf), prefix) == expected


def test_trigrams_of_the_original_become_less_likely_each_time():
    (rule,) = constraints_of(Decoding(block_trigrams=True, upstream_compat=True), Vocabulary(["a", "b", "c", "d", "e"]))
    found = rule(torch.zeros(1, 5), torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 2]]))
    torch.testing.assert_close(found.exp(), torch.tensor([[1.0, 1, 1, 1 / 16, 1 / 4]]))


@pytest.mark.parametrize(
    ("prefix", "expected"), [([], []), ([1], [0]), ([2], []), ([2, 5], [0]), ([5, 2], []), ([0], [])]
)
def test_bad_endings(prefix, expected):
    assert forbidden(no_bad_endings([1, 5]), prefix) == expected


def test_rows_have_their_own_prefix():
    prefix = torch.tensor([[1, 2, 3, 1, 2], [1, 2, 3, 4, 5]])
    decoding = Decoding(no_repeat=True, block_trigrams=True, no_bad_endings=True)
    found = constrain(torch.zeros(2, 7), prefix, constraints_of(decoding, WORDS)).isneginf()
    assert [row.nonzero().flatten().tolist() for row in found] == [[2, 3, 6], [0, 5, 6]]


def test_the_end_is_open_where_nothing_else_is():
    rules = constraints_of(Decoding(no_repeat=True, no_bad_endings=True), Vocabulary(["a", UNK]))
    found = constrain(torch.zeros(1, 3), torch.tensor([[1]]), rules)
    assert found.tolist() == [[0.0, -math.inf, -math.inf]]


def decoded(method: str, prefer: dict[int, float], **options) -> list[list[int]]:
    """Captions of a captioner that prefers some words strongly, cut at their end."""
    model = tiny_captioner(vocab_size=6, end_bias=0.0)
    with torch.no_grad():
        model.output.weight /= 10
        for token, bias in prefer.items():
            model.output.bias[token] = bias
    decoding = Decoding(method=method, max_words=8, beam_size=3, **options)  # pyright: ignore[reportArgumentType]
    found = decode(model, grids(6), decoding, WORDS, generator=torch.Generator().manual_seed(0))
    assert found.log_probs.isfinite().all()
    return [tokens[mask].tolist() for tokens, mask in zip(found.tokens, found.mask, strict=True)]


@METHODS
def test_unknown_words_are_suppressed_in_all_modes(method):
    assert any(6 in caption for caption in decoded(method, {6: 5.0}, suppress_unknown=False))
    assert not any(6 in caption for caption in decoded(method, {6: 5.0}))
    upstream = decoded(method, {6: 5.0}, upstream_compat=True)
    assert any(6 in caption for caption in upstream) == (method != "beam")


def test_a_vocabulary_without_unknown_words_has_nothing_to_suppress():
    words = Vocabulary(["a", "dog"])
    assert constraints_of(Decoding(), words) == []


@METHODS
def test_no_word_twice_in_a_row(method):
    def repeats(captions):
        return sum(a == b for caption in captions for a, b in pairwise(caption))

    assert repeats(decoded(method, {2: 4.0}))
    assert not repeats(decoded(method, {2: 4.0}, no_repeat=True))


@METHODS
def test_no_trigram_twice(method):
    def repeats(captions):
        trigrams_of = [list(zip(c, c[1:], c[2:], strict=False)) for c in captions]
        return sum(len(own) - len(set(own)) for own in trigrams_of)

    assert repeats(decoded(method, {2: 4.0, 0: -9.0}))
    blocked = decoded(method, {2: 4.0, 0: -9.0}, block_trigrams=True)
    assert not repeats(blocked)
    assert max(map(len, blocked)) == 8


@METHODS
def test_no_bad_endings_in_captions(method):
    bad = WORDS.ids_of(BAD_ENDINGS)
    assert set(bad) == {1, 3, 5}
    model, endings = tiny_captioner(vocab_size=6, seed=2), []
    for forbid_them in (False, True):
        decoding = Decoding(method=method, max_words=8, beam_size=3, no_bad_endings=forbid_them)
        found = decode(model, grids(12), decoding, WORDS, generator=torch.Generator().manual_seed(0))
        captions = [tokens[mask].tolist() for tokens, mask in zip(found.tokens, found.mask, strict=True)]
        endings.append([caption[-2] for caption in captions if len(caption) > 1 and caption[-1] == 0])
    without, with_rule = endings
    assert set(without) & set(bad)
    assert with_rule
    assert not set(with_rule) & set(bad)


@METHODS
def test_all_rules_with_hardly_any_words(method):
    options = {"no_repeat": True, "block_trigrams": True, "no_bad_endings": True}
    model = tiny_captioner(vocab_size=2)
    decoding = Decoding(method=method, max_words=8, **options)  # pyright: ignore[reportArgumentType]
    found = decode(model, grids(6), decoding, Vocabulary(["a", UNK]))
    assert {tuple(row[:3]) for row in found.tokens.tolist()} <= {(1, 0, 0), (0, 0, 0)}
    assert found.log_probs.isfinite().all()
