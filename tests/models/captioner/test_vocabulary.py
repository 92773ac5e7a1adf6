"""Words and ids: which words are kept, in which order, and the way there and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.captioner.vocabulary import UNK, Vocabulary
from utils.errors import UserError


def captions_with(counts: dict[str, int]) -> list[list[str]]:
    return [[word] for word, count in counts.items() for _ in range(count)]


def test_words_occur_more_often_than_the_threshold_in_the_order_they_come():
    captions = [["zebra", "dog"], *captions_with({"cat": 5, "dog": 5, "zebra": 6, "ant": 6})]
    assert Vocabulary.build(captions).words == ("zebra", "dog", "ant", UNK)
    assert Vocabulary.build(captions, threshold=4).words == ("zebra", "dog", "cat", "ant")


def test_unknown_is_last_and_only_where_something_was_left_out():
    assert Vocabulary.build([["b", "a", "b"]], threshold=0).words == ("b", "a")
    assert Vocabulary.build([["b", "a", "b"]], threshold=1).words == ("b", UNK)
    assert Vocabulary.build([["b", "a", "b"]], threshold=1).unknown_id == 2
    assert Vocabulary.build([["b"]], threshold=0).unknown_id is None


def test_unknown_among_the_words_of_captions_is_unknown():
    assert Vocabulary.build([[UNK, "a", UNK]], threshold=0).words == ("a", UNK)


def test_captions_may_be_a_generator():
    assert Vocabulary.build((caption.split() for caption in ("a dog", "a cat")), threshold=1).words == ("a", UNK)


def test_nothing_left_is_told():
    with pytest.raises(UserError, match="no word of the captions occurs more than 5 times"):
        Vocabulary.build([["a"]])
    with pytest.raises(UserError, match="no word"):
        Vocabulary.build([])


def test_ids_begin_with_one():
    vocabulary = Vocabulary(["a", "dog", UNK])
    assert len(vocabulary) == 3
    assert vocabulary.encode(["dog", "a", "wombat"]) == [2, 1, 3]
    assert vocabulary.ids_of(["dog", "wombat", "a"]) == [2, 1]
    assert vocabulary.unk == Vocabulary.unk == "UNK"


def test_an_unknown_word_without_unknown_is_told():
    with pytest.raises(UserError, match="'wombat' is none of its 2 words, and it has no UNK"):
        Vocabulary(["a", "dog"]).encode(["a", "wombat"])


@pytest.mark.parametrize(
    ("ids", "expected"), [([2, 1, 0, 2], "dog a"), ([0, 1], ""), ([], ""), ([1, 2], "a dog"), ([3], UNK)]
)
def test_captions_end_at_the_first_zero(ids, expected):
    vocabulary = Vocabulary(["a", "dog", UNK])
    assert vocabulary.decode(ids) == vocabulary.decode(torch.tensor(ids, dtype=torch.long)) == expected


@pytest.mark.parametrize("number", [3, -1])
def test_ids_without_a_word_are_told(number):
    with pytest.raises(UserError, match=rf"no word has id {number}, there are 2"):
        Vocabulary(["a", "dog"]).decode([1, number])


def test_sentences():
    assert Vocabulary(["a", "dog"]).sentences(torch.tensor([[1, 2, 0], [0, 0, 0], [2, 2, 2]])) == [
        "a dog",
        "",
        "dog dog dog",
    ]


WORD = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=5).filter(lambda word: word != UNK)


@given(st.lists(WORD, min_size=1, max_size=20, unique=True), st.data())
def test_there_and_back(words, data):
    vocabulary = Vocabulary(words)
    caption = data.draw(st.lists(st.sampled_from(words), max_size=10))
    ids = vocabulary.encode(caption)
    assert 0 not in ids
    assert vocabulary.decode([*ids, 0, 0]) == " ".join(caption)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], "none"),
        (["a", "b", "a"], "'a' twice"),
        (["a b"], "'a b'"),
        ([""], "''"),
        (["a", "b\n"], r"'b\\n'"),
        ([UNK, "a"], "the last word, found 'a' behind it"),
    ],
)
def test_wrong_words_are_told(words, found):
    with pytest.raises(UserError, match=f"found {found}|{found}"):
        Vocabulary(words)


def test_numbered_as_the_originals_file_has_it():
    words = {"1": "naïve", "2": "dog", "3": UNK}
    assert Vocabulary(["naïve", "dog", UNK]).numbered == words
    assert Vocabulary.of_numbered(words) == Vocabulary(["naïve", "dog", UNK])


def test_the_originals_file_is_read_in_the_order_of_its_numbers():
    words = {str(number): f"word{number}" for number in range(12, 0, -1)}
    assert Vocabulary.of_numbered(words).words == tuple(f"word{number}" for number in range(1, 13))


@pytest.mark.parametrize("words", [{"0": "a"}, {"1": "a", "3": "b"}])
def test_numbers_that_are_left_out(words):
    with pytest.raises(KeyError):
        Vocabulary.of_numbered(words)
