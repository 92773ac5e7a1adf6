"""Token ids; the 24 texts of the reference are in test_parity.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.clip.tokenizer import END, START, clean, default_tokenizer, tokenize
from utils.errors import UserError


def test_golden_ids() -> None:
    ids = tokenize("Hello World!")
    assert ids.dtype == torch.int32
    assert ids.shape == (1, 77)
    assert ids[0, :6].tolist() == [49406, 3306, 1002, 256, 49407, 0]
    assert not ids[0, 5:].any()


def test_a_list_gives_a_row_each() -> None:
    texts = ["a dog", "", "a cat"]
    assert torch.equal(tokenize(texts), torch.cat([tokenize(text) for text in texts]))


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_an_empty_text_is_its_two_ends(text: str) -> None:
    assert tokenize(text)[0, :3].tolist() == [49406, 49407, 0]


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="<|>&"), max_size=60))
def test_decoding_gives_the_text_with_a_space_behind_each_word(text: str) -> None:
    tokenizer = default_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)).replace(" ", "") == clean(text).replace(" ", "")


@given(st.text(max_size=30))
def test_any_text_has_ids(text: str) -> None:
    ids = tokenize(text, truncate=True)[0]
    assert ids[0] == 49406
    assert int(ids.max()) == 49407
    assert int(ids.min()) >= 0


def test_words_written_out_as_special_tokens_become_them() -> None:
    ids = tokenize(f"begin {START} middle {END} end")[0]
    assert ids[:8].tolist().count(49406) == 2
    assert int(ids.argmax()) == 4  # where the feature is read: the rest of the sentence is lost, as in the original
    assert default_tokenizer().decode([49406, 49407]) == START + END


@pytest.mark.parametrize(("words", "fits"), [(75, True), (76, False)])
def test_the_longest_text(words: int, fits: bool) -> None:
    text = " ".join(["dog"] * words)
    if fits:
        assert tokenize(text)[0, -1] == 49407
        return
    with pytest.raises(UserError, match=r"text 2 of 2 has 78 tokens, 77 is the most.*truncate=True.*'dog dog"):
        tokenize(["short", text])


def test_a_longer_text_is_cut_before_its_end_token() -> None:
    ids = tokenize(" ".join(["dog"] * 90), truncate=True)[0]
    assert ids[0] == 49406
    assert ids[-1] == 49407
    assert set(ids[1:-1].tolist()) == {1929}


def test_another_context_length() -> None:
    assert tokenize("a dog", context_length=4).tolist() == [[49406, 320, 1929, 49407]]
