import json
import os
from pathlib import Path

import pytest

from media.inputs import find_images, find_inputs, parse_shard, select
from media.video import VideoReader
from tests.helpers.shared_data import SHARED
from utils.errors import MediaError, UserError
from utils.types import Item


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return [str(folder / name) for name in names]


def videos_in(paths=None, **options) -> list[Item]:
    return find_inputs(video_paths=paths, **options)["video"]


def names(*args, **kwargs) -> list[str]:
    return [item.name for item in videos_in(*args, **kwargs)]


@pytest.mark.parametrize("given", [{}, {"video_paths": "a.mp4", "file_with_video_paths": "list.txt"}])
def test_exactly_one_source(given):
    with pytest.raises(UserError, match=r"video_paths.*file_with_video_paths"):
        find_inputs(**given)


def test_names_are_relative_to_the_common_root(tmp_path):
    assert names(touch(tmp_path, "dog/000.mp4", "cat/000.mp4")) == ["dog/000", "cat/000"]
    assert names(touch(tmp_path, "dog/000.mp4")) == ["000"]


def test_folder_is_searched_in_natural_order_by_suffix(tmp_path):
    touch(tmp_path, "b10.mp4", "b2.MKV", "notes.txt", "._b2.mp4", ".hidden/x.mp4", "sub/z.webm")
    assert names(str(tmp_path)) == ["b2", "b10", "sub/z"]


def test_folder_that_links_to_itself_ends(tmp_path):
    touch(tmp_path, "a.mp4")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names(str(tmp_path)) == ["a"]


def test_glob(tmp_path):
    touch(tmp_path, "x/clip1.mp4", "y/clip10.mp4", "y/clip2.mp4", "y/readme.md")
    assert names(str(tmp_path / "*" / "clip*")) == ["x/clip1", "y/clip2", "y/clip10"]
    assert names(str(tmp_path / "**" / "*.mp4")) == ["x/clip1", "y/clip2", "y/clip10"]
    assert names(str(tmp_path / "*")) == ["x/clip1", "y/clip2", "y/clip10"]


def test_existing_file_wins_over_the_glob(tmp_path):
    touch(tmp_path, "star*.mp4", "starfish.mp4", "[brackets]{braces}(x).mp4")
    assert names([str(tmp_path / "star*.mp4"), str(tmp_path / "[brackets]{braces}(x).mp4")]) == [
        "star*",
        "[brackets]{braces}(x)",
    ]


@pytest.mark.parametrize("given", ["", "none*.mp4", "."])
def test_nothing_found_is_an_error(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="video_paths"):
        videos_in(given)


def test_missing_path_stays_in_the_run(tmp_path):
    (item,) = videos_in([str(tmp_path / "gone.mp4")])
    assert item.name == "gone"
    with pytest.raises(MediaError, match="no such file"):
        VideoReader(item.path)


def test_each_file_once(tmp_path):
    paths = touch(tmp_path, "a.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "a.mp4")
    assert names([*paths, str(tmp_path), os.path.join(tmp_path, ".", "a.mp4")]) == ["a"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["clip.mp4", "clip.mkv", "other.mp4"], ["clip_mp4", "clip_mkv", "other"]),
        (["clip.avi.mp4", "clip.mp4"], ["clip.avi", "clip"]),
        (["a.mp4", "A.mp4"], ["a_mp4", "A_mp4_2"]),
        (["clip.mp4", "clip.mkv", "clip_mp4.avi"], ["clip_mp4_2", "clip_mkv", "clip_mp4"]),
        (["no_extension", "no_extension.mp4"], ["no_extension", "no_extension_mp4"]),
    ],
)
def test_names_are_unique(tmp_path, files, expected):
    found = names(touch(tmp_path, *files))
    assert len({name.casefold() for name in found}) == len(files)
    assert found == expected


def test_list_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, " lead.mp4", "trail .mp4", "#kept.mp4", "b.mp4")
    text = "\ufeff lead.mp4\r\n\r\n# a comment\r\n#kept.mp4\r\n   b.mp4  \r\ntrail .mp4\r\ngone.mp4"
    Path("list.txt").write_bytes(text.encode())
    items = videos_in(file_with_video_paths="list.txt")
    assert [str(item.path) for item in items] == [" lead.mp4", "#kept.mp4", "b.mp4", "trail .mp4", "gone.mp4"]
    Path("list.txt").write_bytes(text.lstrip("\ufeff").encode("utf-16"))
    assert videos_in(file_with_video_paths="list.txt") == items


@pytest.mark.parametrize("content", [None, b"\n# nothing\n"])
def test_unusable_list_file(tmp_path, content):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match="file_with_video_paths="):
        videos_in(file_with_video_paths=tmp_path / "list.txt")


def images_in(paths=None, file_with_paths=None, **options) -> list[Item]:
    return find_inputs(image_paths=paths, file_with_image_paths=file_with_paths, **options)["image"]


def image_names(*args, **kwargs) -> list[str]:
    return [item.name for item in images_in(*args, **kwargs)]


def write_list(folder: Path, *lines: str) -> Path:
    (folder / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    return folder / "list.txt"


def test_images_are_found_by_what_pillow_opens(tmp_path):
    touch(tmp_path, "b10.JPEG", "b2.webp", "a.mp4", "x.pdf", "sub/z.tif", "sub/anim.gif")
    assert image_names(str(tmp_path)) == ["b2", "b10", "sub/anim", "sub/z"]
    assert image_names(str(tmp_path / "b*")) == ["b2", "b10"]
    with pytest.raises(UserError, match="exactly one of image_paths and file_with_image_paths, found neither"):
        find_images()


def test_images_of_a_list_are_relative_to_image_dir(tmp_path):
    folder = tmp_path / "odd [name]"
    touch(folder, "val/1.jpg", "val/2.jpg", "train/1.jpg", " lead.jpg", "#x.jpg")
    file = write_list(tmp_path, "val/1.jpg", "# a comment", "", " val/gone.jpg ", " lead.jpg", "#x.jpg", "train/*.jpg")
    items = images_in(file_with_paths=file, image_dir=folder)
    assert [str(item.path.relative_to(folder)) for item in items] == [
        *("val/1.jpg", "val/gone.jpg", " lead.jpg", "#x.jpg", "train/1.jpg")
    ]
    assert [item.name for item in items] == ["val/1", "val/gone", " lead", "#x", "train/1"]
    absolute = write_list(tmp_path, str(folder / "val" / "2.jpg"))
    assert images_in(file_with_paths=absolute, image_dir=folder)[0].path == folder / "val" / "2.jpg"


def test_coco_ids(tmp_path):
    file = write_list(
        tmp_path,
        "val2014/COCO_val2014_000000391895.jpg",
        "train2017/000000147328.jpg",
        "1000092795.jpg.png",
        "val2014/COCO_val2014_000000391895.jpg",
    )
    touch(tmp_path, "1000092795.jpg.png")  # one is enough to see that the folder is right
    assert image_names(file_with_paths=file, image_dir=tmp_path, id_mode="coco_int") == [
        *("391895", "147328", "1000092795")
    ]
    assert image_names(touch(tmp_path, "a_007.png"), id_mode="coco_int") == ["7"]


@pytest.mark.parametrize("name", ["1000268201_693b08cb0e.jpg", "cat.jpg", "x_.jpg", "x_-5.jpg", "x_٣.jpg", ".5.jpg"])
def test_names_without_coco_ids(tmp_path, name):
    file = write_list(tmp_path, "1.jpg", name)
    with pytest.raises(UserError, match=r"list\.txt, line 2: .*id_mode=coco_int expects a number .*use id_mode=stem"):
        images_in(file_with_paths=file, id_mode="coco_int")


def test_ids_from_a_column(tmp_path):
    file = write_list(tmp_path, "0, val/a.jpg", "", "# comment", "b/c , a, b.jpg", " 2,val/a.jpg", "0,val/a.jpg")
    touch(tmp_path, "a, b.jpg")
    items = images_in(file_with_paths=file, image_dir=tmp_path, id_mode="column")
    assert [(item.name, str(item.path.relative_to(tmp_path))) for item in items] == [
        *(("0", "val/a.jpg"), ("b/c", "a, b.jpg"), ("2", "val/a.jpg"))
    ]


@pytest.mark.parametrize("line", ["val/a.jpg", "0,", ", a.jpg", "../x, a.jpg", "/x, a.jpg", "a//b, a.jpg", "x/, a.jpg"])
def test_lines_that_are_no_id_and_path(tmp_path, line):
    with pytest.raises(UserError, match=r"list\.txt, line 2: id_mode=column expects"):
        images_in(file_with_paths=write_list(tmp_path, "0, a.jpg", line), id_mode="column")


@pytest.mark.parametrize(
    ("id_mode", "lines"),
    [("coco_int", ["val/COCO_0005.jpg", "train/5.jpg"]), ("column", ["5, a.jpg", "5, b.jpg"])],
)
def test_two_files_with_one_id(tmp_path, id_mode, lines):
    with pytest.raises(UserError, match=r"line 2: two images with the id 5: .*\.jpg and .*\.jpg"):
        images_in(file_with_paths=write_list(tmp_path, *lines), id_mode=id_mode)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_paths": "a.jpg", "image_dir": "."}, "image_dir=.: belongs to file_with_image_paths"),
        ({"file_with_image_paths": "list.txt", "image_dir": "gone"}, "image_dir=gone: no such folder"),
        ({"image_paths": "a.jpg", "id_mode": "column"}, "id_mode=column: expected file_with_image_paths"),
        ({"image_paths": "a.jpg", "id_mode": "coco"}, "id_mode=coco: did you mean coco_int"),
        ({"video_paths": "a.mp4", "id_mode": "coco_int"}, "id_mode=coco_int: names images"),
        ({"image_paths": "a.jpg", "file_with_image_paths": "list.txt"}, "image_paths.*found both"),
        ({"image_paths": []}, "image_paths is empty"),
        ({"file_with_image_paths": "empty.txt", "id_mode": "column"}, "expected lines `id, path`"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    write_list(tmp_path, "a.jpg")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=message):
        find_inputs(**options)


def all_names(**given) -> dict[str, list[str]]:
    return {kind: [item.name for item in items] for kind, items in find_inputs(**given).items()}


def test_videos_and_images_are_named_apart(tmp_path):
    touch(tmp_path, "v/clip.mp4", "v/other.mp4", "i/clip.jpg", "i/photo.jpg", "i/sub/clip.jpg", "i/5.jpg", "v/5.mp4")
    folders = {"video_paths": str(tmp_path / "v"), "image_paths": str(tmp_path / "i")}
    assert all_names(**folders) == {
        "video": ["5_mp4", "clip_mp4", "other"],
        "image": ["5_jpg", "clip_jpg", "photo", "sub/clip"],
    }
    assert names(folders["video_paths"]) == ["5", "clip", "other"]
    assert all_names(**folders | {"image_paths": str(tmp_path / "i/5.jpg"), "id_mode": "coco_int"}) == {
        "video": ["5_mp4", "clip", "other"],
        "image": ["5"],
    }


def test_a_gif_may_be_both(tmp_path):
    touch(tmp_path, "x.gif")
    assert all_names(video_paths=str(tmp_path), image_paths=str(tmp_path)) == {"video": ["x_gif"], "image": ["x_gif_2"]}


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder, and an empty current one in which nothing is called `~`."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    touch(tmp_path / "home", "clips/a.mp4", "clips/b.mp4", "photos/1.jpg", "photos/2.jpg")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"video_paths": "~/clips/a.mp4"}, ["clips/a.mp4"]),
        ({"video_paths": ["~/clips"]}, ["clips/a.mp4", "clips/b.mp4"]),
        ({"video_paths": "~/clips/*.mp4"}, ["clips/a.mp4", "clips/b.mp4"]),
        ({"image_paths": "~/photos"}, ["photos/1.jpg", "photos/2.jpg"]),
        ({"file_with_video_paths": "~/videos.txt"}, ["clips/a.mp4", "clips/b.mp4"]),
        ({"file_with_image_paths": "~/images.txt", "image_dir": "~/photos"}, ["photos/2.jpg"]),
        ({"file_with_image_paths": "~/ids.txt", "image_dir": "~/photos", "id_mode": "column"}, ["photos/1.jpg"]),
        ({"file_with_texts": "~/texts.txt"}, ["texts.txt"]),
        ({"annotations": "~/karpathy.json"}, ["karpathy.json"]),
    ],
    ids=str,
)
def test_home_folder(home, given, expected):
    """The shell expands `~` neither in `KEY=~/x` nor inside quotes nor in a list."""
    (home / "videos.txt").write_text("~/clips/a.mp4\n~/clips/b*\n")
    (home / "images.txt").write_text("2.jpg\n")
    (home / "ids.txt").write_text("7, 1.jpg\n")
    (home / "texts.txt").write_text("a cat\n")
    sentences = [{"raw": "a cat", "tokens": ["a", "cat"]}]
    images = [{"filename": "1.jpg", "split": "val", "sentences": sentences}]
    (home / "karpathy.json").write_text(json.dumps({"images": images}))
    (items,) = find_inputs(**given).values()
    assert [str(item.path) for item in items] == [str(home / name) for name in expected]


def test_a_name_with_a_tilde_is_no_home_folder(home):
    touch(Path(), "~/clips/a.mp4", "~x.mp4")
    items = videos_in(["~/clips/a.mp4", "~x.mp4"])
    assert [str(item.path) for item in items] == ["~/clips/a.mp4", "~x.mp4"]


@pytest.mark.parametrize(
    ("text", "expected"), [("1/1", (1, 1)), ("1/8", (1, 8)), ("8/8", (8, 8)), (" 3 / 10 ", (3, 10))]
)
def test_shard_is_parsed(text: str, expected: tuple[int, int]) -> None:
    assert parse_shard(text) == expected


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "0/0", "-1/8", "1", "1/", "/8", "1/8/2", "1.0/8", "", "²/3"])
def test_any_other_shard_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_shard(text)
    assert str(caught.value) == f"shard={text}: expected i/n with 1 <= i <= n, for example 1/8 ... 8/8"


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_shards_are_disjoint_complete_and_of_equal_size(length: int, count: int) -> None:
    items = list(range(length))
    parts = [list(select(items, f"{number}/{count}")) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == items[number::count] for number, part in enumerate(parts))


def test_without_a_shard_everything() -> None:
    assert select([1, 2, 3], None) == [1, 2, 3]


def test_a_wrong_shard_is_told_for_an_empty_list_too() -> None:
    with pytest.raises(UserError, match="shard=9/8"):
        select([], "9/8")


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "id_mode", "first"),
    [
        ("head200_image_list_test.txt", "coco_int", "391895"),
        ("head200_image_list_val.txt", "coco_int", "184613"),
        ("head200_nocaps_val_image_list.txt", "column", "0"),
    ],
)
def test_genuine_lists(tmp_path, name, id_mode, first):
    listed = SHARED / "data/jianjieluo__OpenAI-CLIP-Feature" / name
    touch(tmp_path, listed.read_text().splitlines()[0].rpartition(", ")[2])
    found = image_names(file_with_paths=listed, image_dir=tmp_path, id_mode=id_mode)
    assert len(found) == len(set(found)) == 200
    assert found[0] == first


def test_listed_files_that_are_not_there_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "here.jpg").write_bytes(b"photo")
    listed = tmp_path / "list.txt"
    listed.write_text("here.jpg\n" + "".join(f"gone{k}.jpg\n" for k in range(22)))
    given = {"file_with_image_paths": str(listed), "image_dir": str(tmp_path)}
    assert len(find_inputs(**given)["image"]) == 23
    (record,) = caplog.records
    lines = record.getMessage().splitlines()
    assert lines[0] == f"file_with_image_paths={listed}: 22 of 23 images are not there:"
    assert lines[1:3] == [f"  {tmp_path / 'gone0.jpg'}", f"  {tmp_path / 'gone1.jpg'}"]
    assert (len(lines), lines[-1]) == (22, "  ... and 2 more")
    (tmp_path / "here.jpg").unlink()
    with pytest.raises(UserError, match=f"none of its 23 images is there, .*relative to image_dir={tmp_path}$"):
        find_inputs(**given)
