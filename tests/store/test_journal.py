"""`flat=true`: files straight in `output_path`, with one `meta.jsonl` for all of them."""

import json
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.convert import convert
from apps.verify import all_forms, verify
from store.forms import Form, SaveNpz, SaveNumpy, SavePickle
from store.items import Store
from store.journal import JOURNAL, Journal
from store.ledger import Ledger
from store.reading import find_saved, read_saved
from store.record import record_of
from tests.helpers.saved_forms import Folder, saving_forms
from utils.errors import UserError
from utils.types import Features, Item

Make = Callable[..., Features]
HOME = "clip/ViT-B_32"


def flat(out: Path, *forms: Form, overwrite: bool = False) -> Store:
    return Store(out, forms or [SaveNpz()], flat=True, overwrite=overwrite)


def done(store: Store, features: Features) -> bool:
    return store.done(features.item, HOME, json.loads(json.dumps(features.settings)))


def image(make: Make, name: str, value: float = 1.0, **settings: Any) -> Features:
    arrays = {"clip": np.full((1, 8), value, np.float32), "grid": np.full((1, 4, 6), value, np.float32)}
    return make(name, arrays=arrays, settings={"model": "x"} | settings, provenance={"image": {"frames": 1}, "rows": 1})


def names(out: Path) -> list[str]:
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


def test_files_lie_side_by_side_and_every_store_knows_them(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    store, items = flat(out), [image(make, name) for name in ("391895", "dog/000", "9")]
    other = flat(out)  # of another process
    for each in items:
        assert not done(other, each)
        store.save(each)
        assert done(store, each)
        assert done(other, each)
    assert names(out) == ["391895.npz", "9.npz", "dog/000.npz", JOURNAL]
    assert np.load(out / "391895.npz")["features"].shape == (4, 6)
    lines = [json.loads(line) for line in (out / JOURNAL).read_text().splitlines()]
    assert [line.get("item", "") for line in lines] == ["", "391895", "dog/000", "9"]
    assert lines[0]["settings"] == {"model": "x"}  # once for all of them
    assert not any("settings" in line for line in lines[1:])


def test_what_is_damaged_missing_changed_or_asked_for_in_another_form_is_not_done(make: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    items = [image(make, name) for name in "abcd"]
    for each in items:
        flat(out).save(each)
    (out / "a.npz").unlink()
    (out / "b.npz").write_bytes((out / "b.npz").read_bytes()[:-1] + b"x")
    items[2].item.path.write_bytes(b"another")
    assert [done(flat(out), each) for each in items] == [False, False, False, True]
    assert not done(flat(out, SaveNumpy()), items[3])
    flat(out, SaveNumpy()).save(items[3])
    assert done(flat(out, SaveNumpy(), SaveNpz()), items[3])


def test_other_settings_are_refused_or_redone(make: Make, tmp_path: Path) -> None:
    store = flat(tmp_path)
    store.save(image(make, "a"))
    store.save(image(make, "b"))
    other = image(make, "a", 2.0, model="y")
    for ask in (lambda: done(flat(tmp_path), other), lambda: flat(tmp_path).check_place(HOME, "image", other.settings)):
        with pytest.raises(UserError, match=r"holds results of other settings .*model: x -> y"):
            ask()
    again = flat(tmp_path, SaveNumpy(), overwrite=True)
    again.check_place(HOME, "image", other.settings)
    assert not done(again, other)
    again.save(other)
    assert done(again, other)
    assert names(tmp_path) == ["a_clip.npy", "a_grid.npy", "b.npz", "in/a.mp4", "in/b.mp4", JOURNAL]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]\n", b'{"item": 7}\n', b'{"item": "a", "common": "x"', b"\xff\n"])
def test_half_a_line_costs_nothing_but_itself(make: Make, tmp_path: Path, damage: bytes) -> None:
    first, second = image(make, "a"), image(make, "b")
    flat(tmp_path).save(first)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(damage)
    assert done(flat(tmp_path), first)
    flat(tmp_path).save(second)
    assert [done(flat(tmp_path), each) for each in (first, second)] == [True, True]


def test_any_line_that_is_lost_costs_its_items_once_more(make: Make, tmp_path: Path) -> None:
    items = [image(make, name) for name in "ab"]
    for each in items:
        flat(tmp_path).save(each)
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    for lost, left in ((0, [False, False]), (1, [False, True]), (2, [True, False])):
        (tmp_path / JOURNAL).write_bytes(b"".join(lines[:lost] + lines[lost + 1 :]))
        assert [done(flat(tmp_path), each) for each in items] == left
        for each in items:
            flat(tmp_path).save(each)
        assert [done(flat(tmp_path), each) for each in items] == [True, True]


def test_a_journal_that_becomes_shorter_is_read_anew(make: Make, tmp_path: Path) -> None:
    items, store = [image(make, name) for name in "ab"], flat(tmp_path)
    for each in items:
        store.save(each)
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join(lines[:2]))
    assert [done(store, each) for each in items] == [True, False]


def saving(out: Path, features: list[Features]) -> None:
    store = flat(out)
    with store.session(Ledger(None, settings={})):
        for each in features:
            if not done(store, each) and store.claim(each.item, HOME):
                store.save(each)
                store.release(each.item, HOME)


def test_killed_at_random_moments_beside_another_process(make: Make, tmp_path: Path) -> None:
    items, out = [image(make, f"{number:03}") for number in range(60)], tmp_path / "out"
    context, random = get_context("fork"), np.random.default_rng(0)
    for _ in range(6):
        pair = [context.Process(target=saving, args=(out, order)) for order in (items, items[::-1])]
        for process in pair:
            process.start()
        pair[0].join(random.uniform(0.01, 0.1))
        for process in pair:
            process.kill()
            process.join()
        for name, _, record in Journal(out / JOURNAL).records():  # what has a line is there, whole
            assert record is not None
            assert np.load(out / f"{name}.npz")["g_feature"].shape == (1, 8)
    saving(out, items)
    assert all(done(flat(out), each) for each in items)
    assert names(out) == [*(f"{number:03}.npz" for number in range(60)), JOURNAL]


def test_it_is_converted_into_any_form(make: Make, tmp_path: Path) -> None:
    out, into, forms = tmp_path / "out", tmp_path / "into", list(saving_forms().values())
    items = [image(make, "dog/000"), image(make, "9")]
    for each in items:
        flat(out, SavePickle()).save(each)
    assert convert(input_path=str(out), forms=forms, on_extraction=[SaveNumpy()], output_path=into) == 0
    assert all(Folder(into, SaveNumpy()).done(each) for each in items)
    assert np.load(into / HOME / "9_grid.npy").shape == (1, 4, 6)
    found = [each for path in find_saved(out, forms) for each in read_saved(path, forms)]
    assert [each.folder for each in found if isinstance(each, Features)] == [HOME, HOME]


def test_a_forged_line_leads_nowhere(make: Make, tmp_path: Path) -> None:
    features = image(make, "a")
    flat(tmp_path / "out").save(features)
    for name in ("../evil", "/evil", "b\0"):
        Journal(tmp_path / "out" / JOURNAL).write(HOME, record_of(make("a", settings={"model": "x"}), {}))
        text = (tmp_path / "out" / JOURNAL).read_text().replace('"item": "a"', f'"item": {json.dumps(name)}', 1)
        (tmp_path / "out" / JOURNAL).write_text(text)
    assert verify(input_path=str(tmp_path / "out"), forms=all_forms()) == 1
    into = tmp_path / "into"
    assert convert(input_path=str(tmp_path / "out"), forms=[SaveNpz()], on_extraction=[SaveNumpy()], output_path=into)
    assert not list(tmp_path.rglob("*evil*"))


def test_verify_finds_what_is_bad_and_has_exactly_that_done_again(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, items = tmp_path / "out", [image(make, name) for name in "abc"]
    for number, each in enumerate(items):
        flat(out).save(image(make, each.item.name, float(number + 1)))
    assert verify(input_path=str(out), forms=all_forms()) == 0
    (out / "b.npz").write_bytes(b"no archive")
    (out / "stray.npz").write_bytes(b"?")
    capsys.readouterr()
    assert verify(input_path=str(out), forms=all_forms(), repair=True) == 1
    printed = capsys.readouterr().out
    assert "damaged file: " in printed
    assert f"no meta file: {out / 'stray.npz'}" in printed
    assert f"removed: b from {out / JOURNAL}" in printed
    assert [done(flat(out), each) for each in items] == [True, False, True]


def test_one_file_for_all_items_is_no_flat_form(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="flat=true: hdf5 puts all items into one file"):
        flat(tmp_path, saving_forms()["save_hdf5"])


def test_another_input_of_the_same_name_is_refused(make: Make, tmp_path: Path) -> None:
    flat(tmp_path / "out").save(image(make, "a"))
    (tmp_path / "a.jpg").write_bytes(b"photo")
    photo = image(make, "a")
    with pytest.raises(UserError, match=r"a\.jpg: .*already holds results of .*a\.mp4"):
        flat(tmp_path / "out").save(Features(Item(tmp_path / "a.jpg", "a"), HOME, photo.arrays, photo.settings))
