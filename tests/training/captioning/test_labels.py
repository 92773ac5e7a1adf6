"""Annotations -> labels -> files -> labels: pointers, threshold, what is cut, and every way to get it wrong."""

import csv
import json
import zipfile
from collections import Counter

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.captioner.vocabulary import Vocabulary
from pairs.annotations import in_words, read_annotations
from pairs.label_files import find_labels, read_labels, write_hdf5, write_json
from pairs.labels import make_labels, make_vocabulary
from pairs.splits import held_out_ids
from tests.helpers.caption_files import annotated, write_karpathy
from tests.helpers.shared_data import SHARED
from training.captioning.prepare_labels import prepare
from utils.errors import UserError

ABC = Vocabulary(["a", "b", "c", "UNK"])
LONG = " ".join(f"w{k}" for k in range(20))
IMAGES = [
    annotated(42, ["a b", "c"]),
    annotated(7, ["b b c"], "val"),
    annotated(100, ["c", "b", "a unheard b"], "restval"),
]
CAPTION = st.lists(st.sampled_from(["a", "b", "c", "rare", "ünïcode"]), max_size=20)


def test_rows_pointers_and_lengths_are_those_of_the_original_layout(tmp_path):
    """Worked out by hand: uint32, zeros behind, 1-based pointers to the first and to the last row."""
    write_hdf5(make_labels(IMAGES, ABC, max_length=4), tmp_path)
    with h5py.File(tmp_path / "captions_label.h5") as file:
        found = {key: file[key][()] for key in file}
    expected = {
        "labels": [[1, 2, 0, 0], [3, 0, 0, 0], [2, 2, 3, 0], [3, 0, 0, 0], [2, 0, 0, 0], [1, 4, 2, 0]],
        "label_length": [2, 1, 3, 1, 1, 3],
        "label_start_ix": [1, 3, 4],
        "label_end_ix": [2, 3, 6],
    }
    assert {key: array.tolist() for key, array in found.items()} == expected
    assert {array.dtype for array in found.values()} == {np.dtype(np.uint32)}
    content = json.loads((tmp_path / "captions.json").read_text())
    assert content["ix_to_word"] == {"1": "a", "2": "b", "3": "c", "4": "UNK"}
    first = {"split": "train", "file_path": "folder/000042.jpg", "id": 42, "captions": ["a b", "c"]}
    assert content["images"][0] == first


@pytest.mark.parametrize("write", [write_hdf5, write_json])
@settings(max_examples=30, deadline=None)
@given(captions=st.lists(st.lists(CAPTION, min_size=1, max_size=6).filter(any), min_size=1, max_size=5))
def test_words_to_files_and_back(write, captions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    images = [annotated(i, [" ".join(words) for words in own]) for i, own in enumerate(captions)]
    vocabulary = Vocabulary(["a", "b", "c", "ünïcode", "UNK"])
    made = make_labels(images, vocabulary)
    write(made, folder)
    words, rows = find_labels(folder)
    assert (rows is None) == (write is write_json)
    read = read_labels(rows, words)
    assert read.vocabulary == vocabulary
    assert read.images == made.images
    for i, own in enumerate(captions):
        own = [words for words in own if words]
        assert read.whole_captions(i) == [" ".join(words) for words in own]
        known = [["UNK" if word == "rare" else word for word in words[:16]] for words in own]
        assert read.known_captions(i) == [" ".join(words) for words in known]
        np.testing.assert_array_equal(read.of_image(i), made.of_image(i))


def test_files_of_the_original_tool_are_read(tmp_path):
    """`cocotalk.json` and `cocotalk_label.h5`, which know no complete captions; FineCapEval's images have no split."""
    with h5py.File(tmp_path / "cocotalk_label.h5", "w") as file:
        file["labels"] = np.array([[1, 2, 0], [2, 3, 1], [1, 0, 0]], np.uint32)
        file["label_length"] = np.array([2, 3, 1], np.uint32)
        file["label_start_ix"], file["label_end_ix"] = np.array([1, 3], np.uint32), np.array([2, 3], np.uint32)
    images = [{"split": "train", "file_path": "train2014/x.jpg", "id": 9, "width": 4, "height": 3}, {"id": "y"}]
    words_path = tmp_path / "cocotalk.json"
    words_path.write_text(json.dumps({"images": images, "ix_to_word": {"2": "dog", "1": "a", "3": "UNK"}}))
    words, rows = find_labels(words_path)
    labels = read_labels(rows, words)
    assert [labels.whole_captions(i) for i in range(2)] == [["a dog", "dog UNK a"], ["a"]]
    assert (labels.images[0].id, labels.images[0].size_px, labels.images[0].split) == ("9", (4, 3), "train")
    assert (labels.images[1].id, labels.images[1].split) == ("y", "test")


@pytest.mark.parametrize(("length", "kept"), [(1, 1), (15, 15), (16, 16), (17, 16), (20, 16)])
def test_cut_at_sixteen_words(length, kept):
    caption = " ".join(LONG.split()[:length])
    labels = make_labels([annotated(1, [caption])], Vocabulary(LONG.split()))
    assert labels.rows.shape == (1, 16)
    assert labels.rows[0].tolist() == [*range(1, kept + 1), *[0] * (16 - kept)]
    assert labels.whole_captions(0) == [caption]
    assert labels.known_captions(0) == [" ".join(caption.split()[:16])]


def test_words_must_occur_more_often_than_the_threshold():
    images = [annotated(1, ["often", "limit"] * 5 + ["often"])]
    assert list(make_vocabulary(images, images, threshold=5).words) == ["often", "UNK"]
    assert list(make_vocabulary(images, images, threshold=4).words) == ["often", "limit"]


def test_the_vocabulary_says_unk_where_only_held_out_captions_need_it():
    train, held_out = annotated(1, ["a b"]), annotated(2, ["a strange b"], "val")
    assert list(make_vocabulary([train], [train], threshold=0).words) == ["a", "b"]
    vocabulary = make_vocabulary([train, held_out], [train], threshold=0)
    assert list(vocabulary.words) == ["a", "b", "UNK"]
    assert make_labels([train, held_out], vocabulary).known_captions(1) == ["a UNK b"]


@pytest.mark.parametrize("captions", [[], [""], ["", ""]])
def test_images_without_captions_are_named(captions):
    with pytest.raises(UserError, match=r"1 image\(s\) without captions.*: 77$"):
        make_labels([*IMAGES, annotated(77, captions)], ABC)


def test_captions_without_words_are_left_out():
    labels = make_labels([annotated(1, ["a", "", "b"]), annotated(2, ["c"])], ABC)
    assert [labels.known_captions(i) for i in range(2)] == [["a", "b"], ["c"]]


def test_take_keeps_rows_and_images_together():
    labels = make_labels(IMAGES, ABC).take(("val", "restval"))
    assert [image.id for image in labels.images] == ["7", "100"]
    assert [labels.known_captions(i) for i in range(2)] == [["b b c"], ["c", "b", "a UNK b"]]
    with pytest.raises(UserError, match="no images of split dev; there are: val, restval"):
        labels.take(["dev"])


def run(tmp_path, images=IMAGES, **changed):
    path = write_karpathy(tmp_path / "karpathy.json", images)
    arguments = {"annotations": str(path), "output_path": str(tmp_path / "out"), "word_count_threshold": 0}
    assert prepare(**arguments | changed) == 0
    words, rows = find_labels(tmp_path / "out")
    return read_labels(rows, words)


def test_the_vocabulary_is_that_of_the_training_captions_unless_all_are_asked_for(tmp_path):
    images = [
        annotated(1, ["a"]),
        annotated(2, ["b"], "restval"),
        annotated(3, ["c"], "val"),
        annotated(4, ["d"], "test"),
    ]
    assert list(run(tmp_path, images).vocabulary.words) == ["a", "b", "UNK"]
    assert list(run(tmp_path, images, vocabulary_from="all").vocabulary.words) == ["a", "b", "c", "d"]


def test_sizes_come_from_the_images(tmp_path):
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(IMAGES):
        Image.new("RGB", (20 + i, 10)).save(tmp_path / image.file_path)
    labels = run(tmp_path, image_folder=str(tmp_path))
    assert [image.size_px for image in labels.images] == [(20, 10), (21, 10), (22, 10)]
    (tmp_path / IMAGES[1].file_path).unlink()
    with pytest.raises(UserError, match=r"folder/000007\.jpg cannot be read"):
        run(tmp_path, image_folder=str(tmp_path))


@pytest.mark.parametrize(("split", "images"), [("train", [0, 1]), ("val", [2]), ("all", [0, 1, 2])])
def test_document_frequencies_are_of_complete_captions_with_unk(tmp_path, monkeypatch, split, images):
    """Not cut at 16 words; `train` has `restval` with it. What is counted, and how, is CIDEr-D's."""
    counted = []

    class Counted:
        def save(self, path):
            path.write_text("{}")

        @classmethod
        def build(cls, captions):
            counted.extend(captions)
            return cls()

    monkeypatch.setattr("training.captioning.prepare_labels.DocumentFrequency", Counted)
    content = [annotated(1, [LONG, "a a"]), annotated(2, ["a"], "restval"), annotated(3, ["a b"], "val")]
    run(tmp_path, content, word_count_threshold=1, document_frequency_from=split)
    end = "<eos>"
    expected = [[[*["UNK"] * 20, end], ["a", "a", end]], [["a", end]], [["a", "UNK", end]]]
    assert [list(captions) for captions in counted] == [expected[number] for number in images]
    assert (tmp_path / "out" / "document_frequency.json").is_file()


def test_summary_counts(tmp_path, capsys):
    images = [annotated(1, ["a a", "a b", LONG]), annotated(2, ["a c"], "val")]
    run(tmp_path, images, word_count_threshold=1)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "vocabulary: 2 words; 21 of 22 (95.45 %) are too rare"
    assert lines[2].split() == ["train", "1", "3", "87.50", "%", "33.33", "%"]
    assert lines[3].split() == ["val", "1", "1", "50.00", "%", "0.00", "%"]
    histogram = {int(line.split()[0]): int(line.split()[1]) for line in lines[5:-1]}
    assert histogram == {length: {2: 3, 20: 1}.get(length, 0) for length in range(21)}
    assert lines[-1].startswith("written: ")


def test_csv_rows_of_one_image_belong_together(tmp_path):
    path = tmp_path / "captions.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["image", "caption", "id", "split"],
                ["a/1.jpg", "A dog, running.", "5", ""],
                ["b/2.jpg", "Two cats", "", "val"],
                ["a/1.jpg", "It's a well-known dog", "5", ""],
            ]
        )
    first, second = read_annotations(path)
    assert (first.id, first.split, first.file_path) == ("5", "train", "a/1.jpg")
    assert first.captions == ("a dog running", "it's a well known dog")
    assert (second.id, second.split, second.captions) == ("2", "val", ("two cats",))


def test_tokens_are_taken_as_they_are_and_made_where_there_are_none(tmp_path):
    image = {"filename": "x.jpg", "split": "val", "sentences": [{"tokens": ["A", "b"], "raw": "?"}, {"raw": "A b!"}]}
    (tmp_path / "some.json").write_text(json.dumps({"images": [image]}))
    (found,) = read_annotations(tmp_path / "some.json")
    assert (found.id, found.file_path, found.captions) == ("x", "x.jpg", ("A b", "a b"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "expected Karpathy's json"),
        ("a.json", "no json", "expected Karpathy's json"),
        ("a.json", '{"images": [{"filename": "x.jpg"}]}', "an image lacks sentences, split"),
        ("a.json", '{"images": []}', "no images in it"),
        ("a.csv", "picture,text\n1.jpg,a dog\n", "expected a csv file with image,caption in its header"),
        ("a.csv", "image,caption,id\n1.jpg\n", "row 2: expected an image and a caption"),
        ("a.csv", "image,caption,id\n1.jpg,a,3\n2.jpg,b,3\n", "the id 3 stands for several images"),
        ("a.csv", "image,caption,id\n", "no captions below the header"),
    ],
)
def test_unusable_annotations_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_annotations(tmp_path / name)


def swapped(tmp_path):
    """Files of two runs: three images in the json, rows of one."""
    write_hdf5(make_labels(IMAGES[:1], ABC), tmp_path / "one")
    write_hdf5(make_labels(IMAGES, ABC), tmp_path)
    return tmp_path / "one" / "captions_label.h5", tmp_path / "captions.json"


def another_vocabulary(tmp_path):
    write_hdf5(make_labels(IMAGES, Vocabulary(["x", "UNK"])), tmp_path)
    (words,) = write_json(make_labels(IMAGES, Vocabulary(["x", "UNK"])), tmp_path / "small")
    write_hdf5(make_labels(IMAGES, ABC), tmp_path)
    return tmp_path / "captions_label.h5", words


def same_sizes(tmp_path):
    """Nothing but the order of the words differs."""
    write_hdf5(make_labels(IMAGES, Vocabulary(["b", "a", "c", "UNK"])), tmp_path / "other")
    write_hdf5(make_labels(IMAGES, ABC), tmp_path)
    return tmp_path / "other" / "captions_label.h5", tmp_path / "captions.json"


def no_rows(tmp_path):
    write_hdf5(make_labels(IMAGES, ABC), tmp_path)
    return None, tmp_path / "captions.json"


def damaged(tmp_path):
    write_hdf5(make_labels(IMAGES, ABC), tmp_path)
    (tmp_path / "captions_label.h5").write_bytes(b"half a file")
    return tmp_path / "captions_label.h5", tmp_path / "captions.json"


def annotations_instead(tmp_path):
    return None, write_karpathy(tmp_path / "dataset.json", IMAGES)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (swapped, "3 images, but rows of 1"),
        (another_vocabulary, "2 words, but a row has number 4"),
        (same_sizes, r"captions_label\.h5 has changed since"),
        (no_rows, "no captions_label.h5 beside it"),
        (damaged, "rows in captions_label.h5"),
        (annotations_instead, "annotations become labels with --config-name caption_labels"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, files, message):
    rows, words = files(tmp_path)
    with pytest.raises(UserError, match=message):
        read_labels(rows, words)


def test_a_second_run_in_another_format_replaces_the_first(tmp_path):
    write_hdf5(make_labels(IMAGES[:1], Vocabulary(["b", "c", "UNK"])), tmp_path)
    write_json(make_labels(IMAGES, ABC), tmp_path)
    words, rows = find_labels(tmp_path)
    assert rows is None
    assert read_labels(rows, words).vocabulary == ABC


def test_missing_labels_say_how_they_are_made(tmp_path):
    with pytest.raises(UserError, match="--config-name caption_labels"):
        find_labels(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"annotations": None}, "annotations: expected Karpathy's json"),
        ({"vocabulary_from": "val"}, "vocabulary_from=val"),
        ({"label_format": "pickle"}, "label_format=pickle"),
        ({"max_length": 0}, "max_length=0"),
        ({"document_frequency_from": "dev"}, "no images of split dev; there are: restval, train, val"),
        ({"word_count_threshold": 50}, "occurs more than 50 times"),
    ],
)
def test_users_mistakes_leave_no_files(tmp_path, changed, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, **changed)
    assert not (tmp_path / "out").exists()


@pytest.mark.shared
def test_labels_of_real_captions(tmp_path):
    """A subset of COCO, counted again here without any of the code."""
    path = SHARED / "data" / "coco_captions_subset" / "dataset_coco_subset.json"
    images = json.loads(path.read_text())["images"]
    assert prepare(annotations=str(path), output_path=str(tmp_path), vocabulary_from="all") == 0
    words, rows = find_labels(tmp_path)
    labels = read_labels(rows, words)
    counts = Counter(word for image in images for sentence in image["sentences"] for word in sentence["tokens"])
    frequent = {word for word, count in counts.items() if count > 5}
    assert [*labels.vocabulary.words][-1] == "UNK"
    assert {*labels.vocabulary.words[:-1]} == frequent
    assert labels.count_splits() == Counter(image["split"] for image in images)
    for i, image in enumerate(images):
        tokens = [sentence["tokens"] for sentence in image["sentences"]]
        assert labels.whole_captions(i) == [" ".join(own) for own in tokens]
        known = [[w if w in frequent else "UNK" for w in own[:16]] for own in tokens]
        assert labels.known_captions(i) == [" ".join(own) for own in known]


@pytest.mark.shared
def test_own_words_are_karpathys():
    """40,000 captions of Flickr8k with their published tokens."""
    archive = zipfile.ZipFile(SHARED / "data" / "flickr8k_text" / "dataset_flickr8k.zip")
    images = json.loads(archive.read("dataset_flickr8k.json"))["images"]
    sentences = [sentence for image in images for sentence in image["sentences"]]
    same = sum(in_words(sentence["raw"]) == " ".join(sentence["tokens"]) for sentence in sentences)
    assert same / len(sentences) > 0.999


def test_images_to_validate_on_are_held_out_on_request_and_asked_for_at_once(tmp_path, caplog):
    """The same images as `train` holds out: `tests/pairs/test_sources.py` has those."""
    path = tmp_path / "captions.csv"
    path.write_text("image,caption\n" + "".join(f"{k}.jpg,a cat\n{k}.jpg,a dog\n" for k in range(10)))
    made = {"annotations": str(path), "output_path": str(tmp_path / "out"), "word_count_threshold": 0}
    assert prepare(**made) == 0
    assert "no images of split val, which caption_train and caption_grammar need; validation_share=0.1" in caplog.text
    caplog.clear()
    assert prepare(**made, validation_share=0.2) == 0
    assert not caplog.text
    words, rows = find_labels(tmp_path / "out")
    held_out = [image.id for image in read_labels(rows, words).images if image.split == "val"]
    assert sorted(held_out) == sorted(str(k) for k in held_out_ids(10, 0.2, 42))
    path.write_text("image,caption,split\na.jpg,a,val\nb.jpg,a,\n")
    with pytest.raises(UserError, match="1 images are of split val already; leave validation_share out"):
        prepare(**made, validation_share=0.5)
