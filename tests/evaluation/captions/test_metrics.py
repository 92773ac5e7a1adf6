"""BLEU, ROUGE-L and CIDEr-D: the numbers of pycocoevalcap, small cases by hand, and loops without tricks."""

import gzip
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.captions.bleu import bleu, bleu_counts, sum_counts
from evaluation.captions.caption_set import CaptionSet
from evaluation.captions.cider import Cider, CiderD, DocumentFrequency
from evaluation.captions.diversity import Diversity, ends_badly, repeats
from evaluation.captions.rouge import longest_common_subsequence, rouge_l
from evaluation.captions.score import score_captions
from tests.helpers.shared_data import SHARED
from utils.errors import UserError

GOLDEN = Path(__file__).parent / "golden"
NAMES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")
# pycocoevalcap 1.2 on the words of Stanford's tokenizer; golden/SOURCES.md says where the captions are from.
EXPECTED = {
    "clipscore_example.json/good": (0.6666666666, 0.4898979485, 0.346881495, 3.75475e-05, 0.4280104846, 0.5637412592),
    "clipscore_example.json/bad": (0.4814814815, 0.240370085, 0.135939082, 1.85975e-05, 0.3121105473, 0.2790165307),
    "abstract_scenes.json/b": (0.6520894072, 0.4527277771, 0.3203739022, 0.2271297219, 0.4676828242, 0.5534218876),
    "abstract_scenes.json/c": (0.6020599251, 0.3990268907, 0.2714169924, 0.1807521344, 0.4374496236, 0.4906517558),
}
HUMAN = (0.648878577, 0.4532255534, 0.3098183511, 0.2059173446, 0.4820678705, 0.9497975027)

words = st.lists(st.sampled_from("abcde"), max_size=9)
caption_sets = st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=3)), min_size=1, max_size=5)


def read(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def values(scores: dict[str, float]) -> list[float]:
    return [scores[name] for name in NAMES]


@pytest.mark.parametrize("name", EXPECTED)
def test_numbers_of_pycocoevalcap(name: str) -> None:
    file, _, candidates = name.partition("/")
    content = read(file)
    assert values(score_captions(content[candidates], content["references"])) == pytest.approx(EXPECTED[name], abs=1e-9)


def coco_references() -> dict[str, list[str]]:
    """Of all images of val2017, in ascending order; captions by annotation id."""
    path = SHARED / "data" / "coco_captions_subset" / "captions_val2017_full.json.gz"
    annotations = json.loads(gzip.decompress(path.read_bytes()))["annotations"]
    captions: dict[int, list[str]] = {}
    for each in sorted(annotations, key=lambda each: each["id"]):
        captions.setdefault(each["image_id"], []).append(each["caption"])
    return {str(image_id): captions[image_id] for image_id in sorted(captions)}


@pytest.mark.shared
def test_numbers_of_pycocoevalcap_for_people() -> None:
    """The first caption of 500 images against the next four."""
    chosen = dict(list(coco_references().items())[:500])
    given = {image_id: captions[0] for image_id, captions in chosen.items()}
    others = {image_id: captions[1:5] for image_id, captions in chosen.items()}
    assert values(score_captions(given, others)) == pytest.approx(HUMAN, abs=1e-9)


# BLEU


def bleu_of(caption: str, *references: str) -> list[float]:
    return bleu(bleu_counts([caption.split()], [[reference.split() for reference in references]])[0])


def test_bleu_by_hand() -> None:
    assert bleu_of("a b c d", "a b c d") == pytest.approx([1, 1, 1, 1])
    assert bleu_of("a a a a", "a b", "a a c d")[0] == pytest.approx(2 / 4)  # counts are those of one reference
    assert bleu_of("a b", "a b c d")[0] == pytest.approx(math.exp(1 - 4 / 2))
    assert bleu_of("a b c", "a b c d", "x y")[2] == pytest.approx(1)  # as near from below: no penalty
    assert bleu_of("", "a b") == [0, 0, 0, 0]
    assert bleu_of("a", "")[0] == pytest.approx(0, abs=1e-12)
    assert 0 < bleu_of("a b c x", "a b c d")[3] < 1e-3  # nothing in common, but not quite nothing


def test_bleu_of_a_set_is_not_the_mean() -> None:
    counts = bleu_counts([["a", "b", "c", "d", "e"], ["x", "y"]], [[["a", "b", "c", "d", "e"]], [["p", "q"]]])
    assert bleu(sum_counts(counts))[0] == pytest.approx(5 / 7)
    assert np.mean([bleu(each)[0] for each in counts]) == pytest.approx(1 / 2)


@given(caption_sets)
def test_bleu_matches_equal_a_loop(pairs: list[tuple[list[str], list[list[str]]]]) -> None:
    for (caption, references), counts in zip(pairs, bleu_counts(*zip(*pairs, strict=True)), strict=True):
        for order in range(1, 5):
            runs = [tuple(caption[i : i + order]) for i in range(len(caption) - order + 1)]
            most = {run: max(count(reference, run) for reference in references) for run in runs}
            assert counts.guesses[order - 1] == len(runs)
            assert counts.matches[order - 1] == sum(min(runs.count(run), most[run]) for run in set(runs))


def count(text: list[str], run: tuple[str, ...]) -> int:
    return sum(tuple(text[i : i + len(run)]) == run for i in range(len(text) - len(run) + 1))


# ROUGE-L


@given(words, words)
def test_longest_common_subsequence_equals_the_table(a: list[str], b: list[str]) -> None:
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, left in enumerate(a):
        for j, right in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if left == right else max(table[i, j + 1], table[i + 1, j])
    assert longest_common_subsequence(a, b) == table[-1, -1]


def test_rouge_by_hand() -> None:
    assert rouge_l(["a", "b", "c"], [["a", "b", "c"]]) == pytest.approx(1)
    assert rouge_l(["a", "b"], [["x", "y"]]) == 0
    assert rouge_l([], [["a"]]) == rouge_l(["a"], [[]]) == rouge_l([], [[]]) == 0
    # Precision 2/4 is that of the first reference, recall 1/1 that of the second.
    expected = (1 + 1.44) * 0.5 * 1 / (1 + 1.44 * 0.5)
    assert rouge_l(["a", "b", "c", "d"], [["a", "x", "b", "y", "z"], ["c"]]) == pytest.approx(expected)


# CIDEr-D


def naive_cider(pairs: list[tuple[list[str], list[list[str]]]]) -> list[float]:
    """The formula, a line after the other; frequencies of these references."""

    def vector(text: list[str], order: int) -> dict[tuple[str, ...], float]:
        runs = Counter(tuple(text[i : i + order]) for i in range(len(text) - order + 1))
        images = {run: sum(any(count(r, run) for r in references) for _, references in pairs) for run in runs}
        return {run: times * (math.log(len(pairs)) - math.log(max(1, images[run]))) for run, times in runs.items()}

    scores = []
    for caption, references in pairs:
        terms = []
        for reference in references:
            gap = max(len(caption) - 1, 0) - max(len(reference) - 1, 0)
            for order in range(1, 5):
                h, r = vector(caption, order), vector(reference, order)
                norms = math.sqrt(sum(v * v for v in h.values())) * math.sqrt(sum(v * v for v in r.values()))
                dot = sum(min(h[run], r[run]) * r[run] for run in h.keys() & r.keys())
                terms.append((dot / norms if norms else 0) * math.exp(-(gap**2) / 72))
        scores.append(10 * sum(terms) / len(terms))
    return scores


@given(caption_sets)
def test_cider_equals_the_formula(pairs: list[tuple[list[str], list[list[str]]]]) -> None:
    captions, references = zip(*pairs, strict=True)
    scorer = CiderD(DocumentFrequency.build(references))
    assert scorer.score(captions, references).tolist() == pytest.approx(naive_cider(pairs), abs=1e-9)


def example() -> tuple[list[list[str]], list[list[list[str]]]]:
    content = read("abstract_scenes.json")
    captions = CaptionSet.of(content["b"], content["references"])
    return captions.words, captions.reference_words


def test_cider_with_saved_frequencies_is_the_same(tmp_path: Path) -> None:
    captions, references = example()
    built = DocumentFrequency.build(references)
    built.save(tmp_path / "df.json")
    loaded = DocumentFrequency.load(tmp_path / "df.json")
    assert loaded == built
    assert CiderD(loaded).score(captions, references).mean() == pytest.approx(0.5534218876, abs=1e-9)
    content = read("abstract_scenes.json")
    of_a_file = Cider(document_frequency_path=str(tmp_path / "df.json"))
    few = dict(list(content["b"].items())[:10])
    from_file = score_captions(few, content["references"], metrics={"cider": of_a_file})["cider"]
    assert from_file == pytest.approx(CiderD(built).score(captions[:10], references[:10]).mean())
    assert from_file != pytest.approx(score_captions(few, content["references"])["cider"], abs=1e-3)


def test_cider_of_numbers_is_that_of_words(tmp_path: Path) -> None:
    captions, references = example()
    numbers: dict[str, int] = {}

    def ids(text: list[str]) -> list[int]:
        return [numbers.setdefault(word, len(numbers)) for word in text]

    as_ids = [[ids(reference) for reference in each] for each in references]
    DocumentFrequency.build(as_ids).save(tmp_path / "ids.json")
    by_ids = CiderD(DocumentFrequency.load(tmp_path / "ids.json")).score([ids(each) for each in captions], as_ids)
    assert by_ids == pytest.approx(CiderD(DocumentFrequency.build(references)).score(captions, references), abs=1e-12)


def test_cider_of_the_reference_itself() -> None:
    """10 if n-grams of every order tell the images apart, else the share of orders that do."""
    references = [[["a", "b", "c", "d"]], [["a", "x", "y", "z"]], [["a", "p", "q"]], [["a"]]]
    scorer = CiderD(DocumentFrequency.build(references))
    assert scorer.score([each[0] for each in references], references).tolist() == pytest.approx([10, 10, 7.5, 0])


def test_cider_of_one_image_is_zero() -> None:
    assert score_captions({"1": "a b c d"}, {"1": ["a b c d"]})["cider"] == 0


def test_cider_punishes_repetition_and_length() -> None:
    references = [[["a", "cat", "sits", "here"]], [["two", "dogs", "run"]], [["one", "red", "car"]]]
    scorer = CiderD(DocumentFrequency.build(references))
    cat = references[0][0]
    once, again, padded = scorer.score([cat, cat + cat, [*cat, "x", "y", "z"]], [references[0]] * 3)
    assert again < padded < once
    # "x" alone is in no image: of one word the length of the vector is weight x count, and 3 more bigrams away.
    assert scorer.score([["dogs"]], [references[1]])[0] == pytest.approx(10 / 4 / math.sqrt(3) * math.exp(-(2**2) / 72))
    # Said three times it counts once: the cosine falls to a third.
    assert scorer.score([["dogs"] * 3], [references[1]])[0] == pytest.approx(10 / 4 / math.sqrt(3) / 3)


def test_cider_of_many_captions_of_an_image() -> None:
    captions, references = example()
    scorer = CiderD(DocumentFrequency.build(references))
    alone = scorer.score(captions, references)
    others = scorer.score(captions[1:], references[:-1])  # each caption with the references of the image before
    both = [caption for k in range(99) for caption in (captions[k], captions[k + 1])]
    together = scorer.score(both, references[:-1], captions_each=2)
    assert together.reshape(99, 2).T.tolist() == [alone[:-1].tolist(), others.tolist()]
    with pytest.raises(ValueError, match="198 captions, 99 images with 1 each"):
        scorer.score(both, references[:-1])


def test_texts_are_not_taken_for_words() -> None:
    with pytest.raises(TypeError, match="expected a list of words, found the text 'a cat'"):
        CiderD(DocumentFrequency({}, 1)).score(["a cat"], [[["a", "cat"]]])


@pytest.mark.parametrize("references", [[[["a", 1]]], [[["a b"]]], [[[1.5]]]])
def test_frequencies_that_would_not_come_back_are_not_saved(references: list, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="word"):
        DocumentFrequency.build(references).save(tmp_path / "df.json")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"num_images": 1, "words": "float", "counts": {}}'])
def test_other_files_are_no_frequencies(content: str, tmp_path: Path) -> None:
    (tmp_path / "df.json").write_text(content)
    with pytest.raises(UserError, match=r"df\.json: expected document frequencies"):
        Cider(document_frequency_path=str(tmp_path / "df.json"))


# Diversity


def test_diversity() -> None:
    given = {"1": "a dog and a dog", "2": "a man on a", "3": "a man on a", "4": ""}
    metrics = Diversity()(CaptionSet.of(given, {image_id: ["x"] for image_id in given})).metrics
    assert metrics == {
        "repeated_bigram_share": 0.25,
        "repeated_trigram_share": 0,
        "bad_ending_share": 0.5,
        "mean_length_words": 13 / 4,
        "distinct_captions_share": 0.75,
        "distinct_words": 5,
    }


def test_repetition() -> None:
    assert repeats(["a", "a", "a"], 2)  # "a a" twice, overlapping
    assert not repeats(["a", "a"], 2)
    assert repeats(["a", "b", "c", "a", "b", "c"], 3)
    assert not repeats([], 2)
    assert ends_badly(["riding", "a", "bike", "with"])
    assert not ends_badly([])


# Sets


def test_sets_need_references() -> None:
    with pytest.raises(UserError, match="1 of 2 captions have no references: image 2"):
        score_captions({"1": "a", "2": "b"}, {"1": ["a"], "2": []})
    with pytest.raises(UserError, match="no captions"):
        score_captions({}, {"1": ["a"]})


def test_images_without_a_caption_do_not_count() -> None:
    assert score_captions({"1": "a b"}, {"1": ["a b"], "2": ["c"]}) == score_captions({"1": "a b"}, {"1": ["a b"]})
