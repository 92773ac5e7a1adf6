"""FineCapEval's word recall on a csv file of two images, and the stems it counts."""

from pathlib import Path

import pytest

from evaluation.captions.caption_set import CaptionSet
from evaluation.captions.finecapeval import FineCapEval, read_note_references, read_notes, recall, stem, stems
from evaluation.captions.score import score_captions
from utils.errors import UserError

# Backslash and semicolon stand between phrases.
CSV = r"""image,caption,background,object,relation
one.jpg,A dog runs.,green grass\;blue sky,Dogs\;a red ball,running after
one.jpg,Fast dog.,grass,dog,chasing\;!!\;x
one.jpg,No relation.,grass,dog,
one.jpg,NaN row.,grass,nan,runs
two.png,An art fair.,art,"tents, people",part of
"""


@pytest.fixture
def notes(tmp_path: Path) -> str:
    (tmp_path / "fine.csv").write_text(CSV, encoding="utf-8")
    return str(tmp_path / "fine.csv")


def test_rows_with_an_empty_field_are_left_out(notes: str) -> None:
    found = read_notes(Path(notes))
    assert list(found) == ["one", "two"]
    assert read_note_references(Path(notes)).files == {"one": ("one.jpg",), "two": ("two.png",)}
    assert found["one"].captions == ["A dog runs.", "Fast dog."]
    # "x" is too short to be a phrase; "!!" is one, without a word.
    assert found["one"].phrases == {
        "background": ["green grass", "blue sky", "grass"],
        "object": ["dogs", "a red ball", "dog"],
        "relation": ["running after", "chasing", "!!"],
    }
    assert found["two"].phrases["object"] == ["tents, people"]


def test_recall_by_axis(notes: str) -> None:
    captions = {"one": "a dog runs on the grass after a ball", "two": "a part of a town", "three": "not in it"}
    scored = CaptionSet.of(captions, {image_id: ["x"] for image_id in captions})
    by_letters = FineCapEval(path=notes)(scored)
    # "one": green? grass yes | blue no sky no | grass: (1/2 + 0 + 1) / 3; "art" is found in "part".
    of_people = {"one": ["A dog runs.", "Fast dog."], "two": ["An art fair."]}
    expected = score_captions({image_id: captions[image_id] for image_id in of_people}, of_people)
    names = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")
    overall = {name: by_letters.metrics[f"finecapeval_overall_{name}"] for name in names}
    assert overall == pytest.approx({name: expected[name] for name in names})
    assert by_letters.metrics["finecapeval_background"] == pytest.approx(((1 / 2 + 0 + 1) / 3 + 1) / 2)
    assert by_letters.details["per_image"]["finecapeval_background"] == [pytest.approx(0.5), 1, None]
    # dog | a, ball, not red | dog; no tents, no people ("peopl").
    assert by_letters.metrics["finecapeval_object"] == pytest.approx((1 + 2 / 3 + 1) / 3 / 2)
    # run, after | no chase | nothing to be found; part, of.
    assert by_letters.metrics["finecapeval_relation"] == pytest.approx(((1 + 0 + 0) / 3 + 1) / 2)
    by_words = FineCapEval(path=notes, match="token")(scored)
    assert by_words.metrics["finecapeval_background"] == pytest.approx(((1 / 2 + 0 + 1) / 3 + 0) / 2)
    assert by_words.metrics["finecapeval_relation"] == by_letters.metrics["finecapeval_relation"]
    assert by_words.data["num_images"] == 2


@pytest.mark.parametrize(
    ("caption", "phrases", "substring", "token"),
    [
        ("a part", ["art"], 1, 0),
        ("dogs", ["dog"], 1, 1),
        ("a man rides", ["riding"], 1, 1),  # the stem of both is "ride"
        ("a happy man", ["happy man"], 0.5, 1),  # "happi" is not in its letters
        ("A Dog", ["dog"], 0, 1),  # the original leaves the caption's capitals as they are
        ("a cat", [], 0, 0),
        ("a cat", ["..."], 0, 0),
        ("", ["cat"], 0, 0),
        ("a man's hat", ["man's (big) hat"], 0.75, 0.75),
    ],
)
def test_both_ways_of_counting(caption: str, phrases: list[str], substring: float, token: float) -> None:
    assert recall(caption, phrases, "substring") == pytest.approx(substring)
    assert recall(caption, phrases, "token") == pytest.approx(token)


def test_stems_are_letters_and_digits() -> None:
    assert stems("A t-shirt, can't (the) 2 dogs'!") == ["a", "tshirt", "ca", "nt", "the", "2", "dog"]


# Of NLTK 3's PorterStemmer with its default extensions.
STEMS = """
caresses caress, ponies poni, ties tie, tied tie, cats cat, feed feed, agreed agre, plastered plaster, bled bled,
motoring motor, sing sing, conflated conflat, troubled troubl, sized size, hopping hop, tanned tan, falling fall,
hissing hiss, fizzed fizz, failing fail, filing file, happy happi, sky sky, enjoy enjoy, relational relat,
conditional condit, rational ration, digitizer digit, radically radic, differently differ, vilely vile,
analogously analog, vietnamization vietnam, operator oper, feudalism feudal, decisiveness decis, hopefulness hope,
callousness callous, sensitivity sensit, triplicate triplic, formative form, electrical electr, goodness good,
revival reviv, allowance allow, inference infer, airliner airlin, adjustable adjust, replacement replac,
adoption adopt, communism commun, activate activ, effective effect, probate probat, rate rate, cease ceas,
controlling control, roll roll, skies sky, dying die, lying lie, news news, innings inning, by by, as as,
geology geolog, beautifully beauti, sitting sit, people peopl, using use, ate ate, says say, died die, eyed eye
"""


@pytest.mark.parametrize("pair", STEMS.replace("\n", " ").split(","))
def test_stems_are_nltks(pair: str) -> None:
    word, expected = pair.split()
    assert stem(word) == expected


def test_mistakes(notes: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"finecapeval: expected FineCapEval\.csv"):
        FineCapEval(path=None)
    with pytest.raises(UserError, match="finecapeval_match=words"):
        FineCapEval(path=notes, match="words")  # pyright: ignore[reportArgumentType]
    (tmp_path / "other.csv").write_text("image,caption\na.jpg,b\n")
    with pytest.raises(UserError, match="expected a csv file with image,caption,background"):
        FineCapEval(path=str(tmp_path / "other.csv"))
    (tmp_path / "empty.csv").write_text("image,caption,background,object,relation\na.jpg,b,,d,e\n")
    with pytest.raises(UserError, match="no complete rows"):
        FineCapEval(path=str(tmp_path / "empty.csv"))
    with pytest.raises(UserError, match=r"none of the 1 images is in it; its ids are like one, the captions' like 7"):
        FineCapEval(path=notes)(CaptionSet(["7"], ["a"], [["b"]]))
