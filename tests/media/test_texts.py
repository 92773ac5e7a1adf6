"""Texts in: rows are lines, sentences are prepared as by the original, mistakes are named with their place."""

import json

import pytest

from media.texts import find_texts, read_texts
from tests.helpers.shared_data import SHARED
from utils.errors import MediaError, UserError


def lines(path) -> list[tuple[str, str]]:
    (item,) = find_texts(file_with_texts=path)
    assert (item.path, item.name, item.texts) == (path, path.stem, ())
    return list(read_texts(item))


def annotations(path, *images) -> str:
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": raw} for raw in sentences]} | more
        for name, split, sentences, more in images
    ]
    path.write_text(json.dumps({"images": entries}))
    return str(path)


def test_nothing():
    assert find_texts() == []


def test_one_of_texts_and_file():
    with pytest.raises(UserError, match="texts and file_with_texts, found both"):
        find_texts("a", "b.txt")


def test_texts_from_the_command_line():
    (item,) = find_texts(["a cat", 1984, "", "a cat"])
    assert item.name == "texts"
    assert list(read_texts(item)) == [
        ("a cat", "texts, number 1"),
        ("1984", "texts, number 2"),
        ("", "texts, number 3"),
        ("a cat", "texts, number 4"),
    ]
    assert find_texts("a cat")[0].texts == ("a cat",)


@pytest.mark.parametrize(("given", "message"), [([], "expected a text"), (["a", None], "number 2: .*found None")])
def test_mistakes_on_the_command_line(given, message):
    with pytest.raises(UserError, match=message):
        find_texts(given)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_row_k_is_line_k(tmp_path, caplog, encoding, ending, last):
    texts = ["# no comment", "", "  zwei Hünde \u0085\u2028\x0b ", "猫", "猫"]
    bom = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    (tmp_path / "x.txt").write_bytes((bom + ending.join(texts) + ending * last).encode(encoding))
    assert lines(tmp_path / "x.txt") == [(text, f"x.txt, line {k}") for k, text in enumerate(texts, start=1)]
    assert "1 empty texts, the first is x.txt, line 2" in caplog.text


@pytest.mark.parametrize("data", [b"", None, b"\xff\xfe"])
def test_unusable_file(tmp_path, data):
    if data is not None:
        (tmp_path / "x.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"file_with_texts=.*x\.txt: (an empty file|cannot be read \(No such file)"):
        find_texts(file_with_texts=tmp_path / "x.txt")
    with pytest.raises(UserError, match="cannot be read"):
        find_texts(file_with_texts=tmp_path)


def test_invalid_bytes_are_named_by_their_line(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"fine\n" * 5000 + b"caf\xe9\nfine\n")
    with pytest.raises(MediaError, match=r"x\.txt, line 5001: not UTF-8"):
        lines(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_bytes("fine\nfine\n".encode("utf-16") + b"\x00\xd8a\x00")
    with pytest.raises(MediaError, match=r"x\.txt, line 3: not UTF-16"):
        lines(tmp_path / "x.txt")


def test_file_that_is_gone_fails_alone(tmp_path):
    (tmp_path / "x.txt").write_text("a")
    (item,) = find_texts(file_with_texts=tmp_path / "x.txt")
    (tmp_path / "x.txt").unlink()
    with pytest.raises(MediaError, match="cannot be read"):
        list(read_texts(item))


def test_lines_are_read_as_they_are_needed(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"a\n" * 100_000 + b"\xff")
    (item,) = find_texts(file_with_texts=tmp_path / "x.txt")
    assert next(read_texts(item))[0] == "a"


def test_sentences_are_those_of_the_original(tmp_path):
    path = annotations(
        tmp_path / "dataset.json",
        ("a.jpg", "test", [" A Cat. ", "..Two cats...", "x"], {"cocoid": 42}),
        ("1000_abc.jpg", "train", ["A Dog ."], {}),
    )
    one, two = find_texts(annotations=path)
    assert (one.name, one.texts) == ("42", ("a cat", "two cats", "x"))
    assert (two.name, two.texts) == ("1000_abc", ("a dog ",))
    assert list(read_texts(one))[1] == ("two cats", "dataset.json, image 42, sentence 2")


def test_annotations_may_be_a_csv_file(tmp_path):
    (tmp_path / "captions.csv").write_text("image,caption,id\na/1.jpg,A dog. ,one\nb.jpg,Two,\na/1.jpg,It sits,one\n")
    found = find_texts(annotations=tmp_path / "captions.csv")
    assert [(item.name, item.texts) for item in found] == [("one", ("a dog", "it sits")), ("b", ("two",))]


def test_annotations_come_besides_texts(tmp_path):
    path = annotations(tmp_path / "dataset.json", ("texts.jpg", "test", ["a"], {}), ("b.jpg", "test", ["b"], {}))
    (tmp_path / "captions.txt").write_text("one")
    found = find_texts(file_with_texts=tmp_path / "captions.txt", annotations=path)
    assert [item.name for item in found] == ["captions", "texts", "b"]
    with pytest.raises(UserError, match="several items are called texts"):
        find_texts("a text", annotations=path)


def test_equal_ids_are_a_mistake(tmp_path):
    twice = [(f"{k}.jpg", "test", ["a"], {"cocoid": 7}) for k in range(2)]
    with pytest.raises(UserError, match=r"dataset\.json: several items are called 7"):
        find_texts(annotations=annotations(tmp_path / "dataset.json", *twice))


def test_images_without_sentences_are_left_out(tmp_path, caplog):
    path = annotations(tmp_path / "dataset.json", ("a.jpg", "test", [], {}), ("b.jpg", "test", ["b"], {}))
    assert [item.name for item in find_texts(annotations=path)] == ["b"]
    assert "1 images without sentences are left out: a" in caplog.text


@pytest.mark.shared
def test_genuine_annotations():
    items = find_texts(annotations=SHARED / "data" / "coco_captions_subset" / "dataset_coco_subset.json")
    assert len(items) == 111
    assert items[0].name == "790"
    assert items[0].texts[1] == "group around a table waiting for a birthday cake to be served"
    assert items[0].texts[3] == "four persons sitting on dining table for cake and drinks"
