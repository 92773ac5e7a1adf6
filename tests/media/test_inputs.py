import os
from pathlib import Path

import pytest

from utils.errors import MediaError, UserError
from utils.media.inputs import find_videos
from utils.media.video import open_video


def touch(folder: Path, *names: str) -> list[str]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return [str(folder / name) for name in names]


def names(*args, **kwargs) -> list[str]:
    return [item.name for item in find_videos(*args, **kwargs)]


@pytest.mark.parametrize("given", [{}, {"paths": "a.mp4", "file_with_paths": "list.txt"}])
def test_exactly_one_source(given):
    with pytest.raises(UserError, match=r"video_paths.*file_with_video_paths"):
        find_videos(**given)


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
        find_videos(given)


def test_missing_path_stays_in_the_run(tmp_path):
    (item,) = find_videos([str(tmp_path / "gone.mp4")])
    assert item.name == "gone"
    with pytest.raises(MediaError, match="no such file"):
        open_video(item.path)


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
    items = find_videos(file_with_paths="list.txt")
    assert [str(item.path) for item in items] == [" lead.mp4", "#kept.mp4", "b.mp4", "trail .mp4", "gone.mp4"]
    Path("list.txt").write_bytes(text.lstrip("\ufeff").encode("utf-16"))
    assert find_videos(file_with_paths="list.txt") == items


@pytest.mark.parametrize("content", [None, b"\n# nothing\n"])
def test_unusable_list_file(tmp_path, content):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(UserError, match="file_with_video_paths="):
        find_videos(file_with_paths=tmp_path / "list.txt")
