"""Files of captions: Karpathy's json with and without COCO's ids, csv with and without ids."""

import gzip
import json
import zipfile

import pytest

from media.caption_files import (
    Caption,
    CaptionedFile,
    check_distinct,
    names_of,
    read_captions,
    read_captions_csv,
    read_karpathy,
)
from tests.helpers.shared_data import SHARED
from utils.errors import UserError

COCO = {
    "filename": "COCO_val2014_000000391895.jpg",
    "filepath": "val2014",
    "split": "test",
    "cocoid": 391895,
    "imgid": 0,
    "sentences": [{"raw": "A man. ", "tokens": ["a", "man"]}, {"raw": "Two", "tokens": ["two"]}],
}
FLICKR = {"filename": "1000268201_693b08cb0e.jpg", "split": "train", "imgid": 7, "sentences": [{"raw": "A dog"}]}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_karpathy_with_and_without_cocoid(tmp_path):
    path = write(tmp_path / "dataset.json", {"images": [COCO, FLICKR], "dataset": "both"})
    assert read_karpathy(path, key="x") == [
        CaptionedFile(
            files=("val2014/COCO_val2014_000000391895.jpg", "COCO_val2014_000000391895.jpg"),
            id="391895",
            number=391895,
            captions=(Caption("A man. ", ("a", "man")), Caption("Two", ("two",))),
            split="test",
        ),
        CaptionedFile(("1000268201_693b08cb0e.jpg",), "1000268201_693b08cb0e", 7, (Caption("A dog"),), "train"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1", "expected Karpathy's json with a list `images`"),
        ({"annotations": []}, "expected Karpathy's json with a list `images`"),
        ([], "expected Karpathy's json with a list `images`"),
        ({"images": {}}, "expected Karpathy's json with a list `images`"),
        ({"images": ["a.jpg"]}, "an image lacks filename, sentences, split: a.jpg"),
        ({"images": [{"filename": "a.jpg", "split": "val"}]}, "an image lacks sentences"),
        ({"images": [COCO | {"cocoid": "x"}]}, "image COCO_val2014_000000391895.jpg is not as in Karpathy's json"),
        ({"images": [FLICKR | {"sentences": [{"tokens": []}]}]}, r"1000268201_.*raw"),
        ({"images": [FLICKR | {"sentences": [{"raw": None}]}]}, "expected a caption, found None"),
        ({"images": [FLICKR | {"filename": 3}]}, "image 3 is not as in"),
    ],
)
def test_mistakes_in_json(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read_karpathy(write(tmp_path / "x.json", content), key="data_path")
    assert str(caught.value).startswith(f"data_path={tmp_path / 'x.json'}: ")


@pytest.mark.parametrize("read", [read_karpathy, read_captions_csv])
def test_missing_file(tmp_path, read):
    with pytest.raises(UserError, match=r"annotations=.*gone.*No such file"):
        read(tmp_path / "gone", key="annotations")


def test_csv_rows_of_an_image_come_together(tmp_path):
    path = write(tmp_path / "x.csv", '\ufeffimage,caption,id\nb/1.jpg, "one, two",5\n0.jpg,c,0\nb/1.jpg,d,5\n')
    assert read_captions_csv(path, key="x") == [
        CaptionedFile(("b/1.jpg", "1.jpg"), "5", 5, (Caption("one, two"), Caption("d"))),
        CaptionedFile(("0.jpg",), "0", 0, (Caption("c"),)),
    ]
    assert read_captions_csv(path, key="x") == read_captions(path, key="x")


def test_csv_without_ids(tmp_path):
    path = write(tmp_path / "x.csv", "image,caption\na.jpg,b\nc.jpg,d\na.jpg,e\n")
    assert [(image.id, image.number, image.texts) for image in read_captions_csv(path, key="x")] == [
        ("a", 0, ["b", "e"]),
        ("c", 1, ["d"]),
    ]


@pytest.mark.parametrize("ids", [["5", "", "7"], ["5", "x", "7"], ["5", "-1", "7"], ["5", "9" * 30, "7"]])
def test_where_not_all_ids_are_numbers_images_are_counted(tmp_path, ids):
    """Else image number 1 could have the number of the one with id 1."""
    path = write(
        tmp_path / "x.csv", "image,caption,id\n" + "".join(f"{k}.jpg,a,{each}\n" for k, each in enumerate(ids))
    )
    assert [(image.id, image.number) for image in read_captions_csv(path, key="x")] == [
        (each or "1", number) for number, each in enumerate(ids)
    ]


def test_images_of_one_id_have_one_number(tmp_path):
    path = write(tmp_path / "x.csv", "image,caption,id\na.jpg,a,shoe\nb.jpg,b,hat\nc.jpg,c,shoe\n")
    assert [image.number for image in read_captions_csv(path, key="x")] == [0, 1, 0]


@pytest.mark.parametrize(
    ("image_id", "file", "names"),
    [
        ("7", "val/COCO_val_00042.jpg", ("7", "val/COCO_val_00042", "COCO_val_00042", "42")),
        ("0013", "0013.jpg", ("0013", "13")),
        ("a.b", "x/a.b.jpg", ("a.b", "x/a.b")),
        ("7", "", ("7",)),
    ],
)
def test_names_an_image_goes_by(image_id, file, names):
    assert names_of(image_id, file) == names


def test_csv_with_names_as_ids_and_splits(tmp_path):
    path = write(tmp_path / "x.CSV", "image,caption,id,split\na/1.jpg,b,one,val\nb/1.jpg,d,,\na/1.jpg,e,one,\n")
    found = read_captions(path, key="x")
    assert [(image.id, image.split, image.texts) for image in found] == [
        ("one", "val", ["b", "e"]),
        ("1", "", ["d"]),
    ]
    check_distinct([image.id for image in found], "x")
    with pytest.raises(UserError, match=r"x: the id 1 stands for several images"):
        check_distinct([image.names[-1] for image in (*found, *found)], "x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing: image, caption; found: nothing"),
        ("picture;text\n", "expected a csv file with image,caption in its header line, .*; found: picture;text"),
        ("image,caption,id\n", "no captions below the header"),
        ("image,caption,id\na.jpg,,1\n", "row 2: expected an image and a caption"),
        ("image,caption\na.jpg\n", "row 2: expected an image and a caption"),
        ("image,caption\na.jpg,a cat\nb.jpg,a dog, asleep\n", "row 3: more fields than the header; .*quotation marks"),
        (
            "image,caption,split\na.jpg,b,val\na.jpg,b,\na.jpg,c,test\n",
            "row 4: a.jpg has split test here, val further up",
        ),
        ("image,caption,id\na.jpg,b,1\na.jpg,c,2\n", "row 3: a.jpg has id 2 here, 1 further up"),
    ],
)
def test_mistakes_in_csv(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"data_path=.*x\.csv.*{message}"):
        read_captions_csv(write(tmp_path / "x.csv", text), key="data_path")


@pytest.mark.shared
def test_genuine_flickr8k_files(tmp_path):
    folder = SHARED / "data" / "flickr8k_text"
    with zipfile.ZipFile(folder / "dataset_flickr8k.zip") as archive:
        images = read_karpathy(archive.extract("dataset_flickr8k.json", tmp_path), key="x")
    assert len({image.id for image in images}) == len({image.number for image in images}) == 8000
    assert [sum(image.split == split for image in images) for split in ("train", "val", "test")] == [6000, 1000, 1000]
    assert all(len(image.captions) == 5 and all(each.tokens for each in image.captions) for image in images)
    (tmp_path / "x.csv").write_bytes(gzip.decompress((folder / "captions_shariatnia_format.csv.gz").read_bytes()))
    rows = read_captions_csv(tmp_path / "x.csv", key="x")
    assert sum(len(image.captions) for image in rows) == 40455
    assert [image.number for image in rows] == list(range(8091))


@pytest.mark.shared
def test_genuine_coco_file():
    images = read_karpathy(SHARED / "data" / "coco_captions_subset" / "dataset_coco_subset.json", key="x")
    assert len(images) == 111
    assert all(image.id == str(image.number) == image.files[-1].partition(".")[0].lstrip("0") for image in images)
