"""What a `.h5` file has to stand beside crashes: several openings, odd names, damage, folders without write access."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from store.handlers import SaveNpz, SaveNumpy

from apps.convert import convert
from store import hdf5
from store.hdf5 import SavedItem, SaveHdf5, read_items
from store.reading import find_saved, read_saved
from utils.errors import MediaError, UserError
from utils.types import Features

Make = Callable[..., Features]


def done(handler: Any, features: Features) -> bool:
    return handler.done(features.item, features.folder, features.settings)


def file_of(out: Path) -> Path:
    return out / "clip" / "ViT-B_32.h5"


def names(found: list[SavedItem | MediaError]) -> list[str]:
    return [each[0].item for each in found if isinstance(each, tuple)]


def test_other_openings_in_this_process_do_not_hide_new_items(make: Make, tmp_path: Path) -> None:
    first, second, third = (SaveHdf5(tmp_path) for _ in range(3))
    first(make("x"))
    assert done(first, make("x"))
    assert done(third, make("x"))
    second(make("y"))
    assert done(first, make("y"))
    assert done(third, make("y"))
    with h5py.File(file_of(tmp_path)) as file:
        assert set(file) == {"x", "y"}


def test_appending_to_the_file_that_is_being_read(make: Make, tmp_path: Path) -> None:
    save = SaveHdf5(tmp_path)
    for name in "ab":
        save(make(name))
    found = []
    for item in read_items(file_of(tmp_path)):
        save(make(f"new{len(found)}"))
        found.append(item)
    assert names(found) == ["a", "b"]
    assert len(names(list(read_items(file_of(tmp_path))))) == 4


def test_converting_twice_into_the_same_folder(make: Make, tmp_path: Path) -> None:
    SaveNumpy(tmp_path)(make())
    for _ in range(2):
        assert convert(input_path=str(tmp_path), on_extraction=[SaveHdf5(tmp_path)], output_path=tmp_path) == 0


@pytest.mark.parametrize("given", [".", "../ViT-B_32"])
def test_results_stay_in_the_output_folder_wherever_the_input_is_named_from(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    SaveNumpy(tmp_path)(make())
    monkeypatch.chdir(tmp_path / "clip" / "ViT-B_32")
    (path,) = find_saved(Path(given))
    (features,) = read_saved(path)
    assert isinstance(features, Features)
    assert features.folder == "clip/ViT-B_32"


@pytest.mark.parametrize("folder", ["/x", "../x", "a/../../x"])
def test_nothing_is_written_outside_the_output_folder(make: Make, tmp_path: Path, folder: str) -> None:
    with pytest.raises(UserError, match="outside"):
        SaveHdf5(tmp_path / "out")(replace(make(), folder=folder))


def test_a_renamed_file_keeps_its_feature_type(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SaveHdf5(tmp_path)(make())
    file_of(tmp_path).rename(tmp_path / "mine.h5")
    monkeypatch.chdir(tmp_path)
    assert convert(input_path="mine.h5", on_extraction=[SaveNpz("npz")], output_path="npz") == 0
    assert "g_feature" in np.load(tmp_path / "npz" / "clip" / "ViT-B_32" / "dog" / "000.npz").files


def test_a_name_that_is_not_utf8(make: Make, tmp_path: Path) -> None:
    features = make(os.fsdecode(b"caf\xe9"))
    save = SaveHdf5(tmp_path)
    save(features)
    assert done(save, features)
    assert names(list(read_items(file_of(tmp_path)))) == [features.item.name]


@pytest.mark.parametrize("damage", ["record", "missing", "bytes"])
def test_one_damaged_item_is_told_and_the_rest_is_read(make: Make, tmp_path: Path, damage: str) -> None:
    save = SaveHdf5(tmp_path)
    for number, name in enumerate("abc"):
        save(make(name, arrays={"clip": np.full((3, 8), number, np.float32)}))
    with h5py.File(file_of(tmp_path), "r+") as file:
        group: Any = file["b"]
        if damage == "record":
            group.attrs["record"] = "{"
        elif damage == "missing":
            del group["clip"]
        else:
            group["clip"][1, 2] = 7.0
    again = SaveHdf5(tmp_path)
    assert [done(again, make(name)) for name in "abc"] == [True, False, True]
    found = list(read_items(file_of(tmp_path)))
    assert names(found) == ["a", "c"]
    assert "b is damaged" in str(found[1])


def test_arrays_without_dimensions_stay_arrays(make: Make, tmp_path: Path) -> None:
    SaveHdf5(tmp_path)(make())
    (found,) = read_items(file_of(tmp_path))
    assert isinstance(found, tuple)
    assert all(isinstance(array, np.ndarray) for array in found[1].values())


def test_a_folder_without_write_access_can_be_read(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SaveHdf5(tmp_path)(make())

    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(hdf5.FileLock, "acquire", refused)
    assert names(list(read_items(file_of(tmp_path)))) == ["dog/000"]
    with pytest.raises(UserError, match="not allowed"):
        SaveHdf5(tmp_path)(make("x"))


def test_a_journal_without_its_file_is_no_obstacle(make: Make, tmp_path: Path) -> None:
    path = file_of(tmp_path)
    path.parent.mkdir(parents=True)
    path.with_name(f"{path.name}.journal").write_bytes(b"left over")
    SaveHdf5(tmp_path)(make())
    assert [each.name for each in path.parent.iterdir() if "journal" in each.name] == []


def test_records_of_the_first_version_have_no_keys(make: Make, tmp_path: Path) -> None:
    features = make()
    SaveNumpy(tmp_path)(features)
    meta = tmp_path / "clip" / "ViT-B_32" / "dog" / "000_meta.json"
    lines = meta.read_text().splitlines()
    meta.write_text("\n".join(line for line in lines if '"key"' not in line))
    (found,) = read_saved(meta)
    assert isinstance(found, Features)
    assert found.arrays.keys() == features.arrays.keys()
