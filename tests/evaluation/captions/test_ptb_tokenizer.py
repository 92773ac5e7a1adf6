"""Words as Stanford's PTBTokenizer and coco-caption's list of punctuation make them."""

import gzip
import hashlib
import json
import signal
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.captions.tokenizer import tokenize
from tests.helpers.shared_data import SHARED

COCO_DIFFERENT = (82045, 363042)  # ids of annotations
COCO_DIGEST = "4ed44c3b1aa4569612c340643c0dd64d253c053476a6a97a2cd5a1010db91534"
FLICKR_DIGEST = "0c22fa6ed70f08d289bbce5096d153a3d9b5f884f7e1eb82850b21ab2e590a3b"
# What Stanford's tokenizer prints for these, without the punctuation that coco-caption drops.
STANFORD = [
    ("A man can't ride the dog's bike.", "a man ca n't ride the dog 's bike"),
    ("it's, they're we've he'd she'll I'm", "it 's they 're we 've he 'd she 'll i 'm"),
    ("aren't won't shan't ain't CAN'T", "are n't wo n't sha n't ai n't ca n't"),
    ("dogs' dog's James's 'cats' women's'", "dogs dog 's james 's cats women 's"),
    ("cannot gonna gotta wanna lemme gimme 'tis", "can not gon na got ta wan na lem me gim me 't is"),
    ("a t-shirt, two-year-old 8-inch x-ray", "a t-shirt two-year-old 8-inch x-ray"),
    ("beach--kite, a - b, foo- -foo", "beach kite a b foo foo"),
    ('he said "hello" (a man) [b] {c}', "he said hello -lrb- a man -rrb- -lsb- b -rsb- -lcb- c -rcb-"),
    ("\u201ccurly\u201d \u2018single\u2019 it\u2019s \u2014 \u2026", "curly single it 's"),
    ("on Elm St. The dog", "on elm st. the dog"),
    ("w. Rowling and w. The man", "w. rowling and w the man"),
    ("a car wash. A Mass. town", "a car wash a mass. town"),
    ("at 5 p.m. in the u.s. of t.v. fame, 6 oz., hot", "at 5 p.m. in the u.s. of t.v. fame 6 oz. hot"),
    ("no. 5 says no. or yes", "no. 5 says no or yes"),
    ("5:54pm 5pm 5,000 1.5 1/2 12/25/10 3:30", "5:54 pm 5pm 5,000 1.5 1/2 12/25/10 3:30"),
    ("$5 5% #41 #dog @home", "$ 5 5 % # 41 #dog @home"),
    ("the '90s, 90's, 1990s", "the '90s 90 's 1990s"),
    (
        "o'clock O'Brien d'oeuvre ma'am y'all ol' rock 'n' roll",
        "o'clock o'brien d'oeuvre ma'am y' all ol' rock 'n' roll",
    ),
    ("AT&T b&w black/white w/o a/b/c/d", "at&t b & w black/white w/o a/b/c / d"),
    ("the man,the woman a;b a:b wow!!! what?! what?", "the man the woman a b a b wow !!! what ?! what"),
    ("hello.world end.the", "hello.world end.the"),
    ("<b> 3 > 2 café 日本", "<b> 3 > 2 café 日本"),
    (" a  b \t c\nd ", "a b c d"),
    ("22 3/4 street", "22 3/4 street"),  # one word with a hard space there, which BLEU and CIDEr cut again
    (".neck go .. ....", "neck go"),
    ("", ""),
    ("... !", ""),
]


@pytest.mark.parametrize(("caption", "words"), STANFORD)
def test_words_are_stanfords(caption: str, words: str) -> None:
    assert tokenize(caption) == words.split()


@given(st.text(max_size=60) | st.text(alphabet="aB1.'-/&()\"!? ", max_size=30))
def test_any_text_becomes_words(text: str) -> None:
    words = tokenize(text)
    assert all(word and word == "".join(word.split()) for word in words)
    assert not {".", ",", "'", '"', "-", "...", "(", ")"} & set(words)
    assert tokenize(f" {text} ") == words


@pytest.mark.parametrize("piece", ["a", "a-", "'", "1.2.", "a/", "<a ", "_", "a_", "a.b.", "n't", "e'", "@a.", "a.a-"])
def test_long_texts_end(piece: str) -> None:
    """An expression that tries again and again would not come back from these."""
    with seconds_at_most(5):
        words = tokenize(piece * 2000)
    assert "".join(words).count("a") == piece.count("a") * 2000


@contextmanager
def seconds_at_most(limit: float) -> Iterator[None]:
    """Of this process' own time, however busy the machine is."""

    def late(*_: object) -> None:
        raise TimeoutError(f"not done after {limit} s")

    previous = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def digest(captions: list[str]) -> str:
    return hashlib.sha256("\n".join(" ".join(tokenize(caption)) for caption in captions).encode()).hexdigest()


@pytest.mark.shared
def test_all_captions_of_coco_val2017_but_two() -> None:
    """The digest is that of Stanford's words. "Ave S." and "CTH D." end a line there that "A ..." follows."""
    path = SHARED / "data" / "coco_captions_subset" / "captions_val2017_full.json.gz"
    annotations = sorted(json.loads(gzip.decompress(path.read_bytes()))["annotations"], key=lambda each: each["id"])
    captions = [each["caption"] for each in annotations if each["id"] not in COCO_DIFFERENT]
    assert len(captions) == 25_014 - 2
    assert digest(captions) == COCO_DIGEST


@pytest.mark.shared
def test_all_captions_of_flickr8k() -> None:
    with zipfile.ZipFile(SHARED / "data" / "flickr8k_text" / "dataset_flickr8k.zip") as archive:
        content = json.loads(archive.read("dataset_flickr8k.json"))
    captions = [sentence["raw"] for image in content["images"] for sentence in image["sentences"]]
    assert len(captions) == 40_000
    assert digest(captions) == FLICKR_DIGEST
