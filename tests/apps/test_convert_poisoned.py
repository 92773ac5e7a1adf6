"""Results that somebody forged, or a disk spoilt: each costs one item, nothing runs, nothing is waited for."""

import hashlib
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from apps.convert import convert
from store.forms import Form, SaveNpz, SaveNumpy, SavePickle
from store.hdf5 import SaveHdf5
from store.items import Store
from store.ledger import Ledger
from tests.helpers.shared_data import ROOT
from utils.errors import UserError
from utils.types import Features, Item

FORMS: list[Form] = [SaveNumpy(), SavePickle(), SaveNpz(), SaveHdf5()]
CLIP = np.ones((3, 4), np.float32)
Poison = Callable[[Path], Any]


class Evil:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def saved(root: Path, form: Form, name: str = "x") -> Path:
    """The meta file of an item in this form, or the file of its folder."""
    root.mkdir(parents=True)
    (root / f"{name}.mp4").write_bytes(b"x")
    store = Store(root, [form], shared=False)
    with store.session(Ledger(None, settings={})):
        arrays = {"clip": CLIP, "timestamps_ms": np.arange(3.0)}
        store.save(Features(Item(root / f"{name}.mp4", name), "clip/m", arrays, {"model": "m"}))
    archive = root / "clip" / "m.h5"
    return archive if archive.exists() else root / "clip" / "m" / f"{name}_meta.json"


def record(**changes: Any) -> Poison:
    def poison(meta: Path) -> None:
        meta.write_text(json.dumps(json.loads(meta.read_bytes()) | changes))

    return poison


def facts_of(name: str, **changes: Any) -> Poison:
    def poison(meta: Path) -> None:
        content = json.loads(meta.read_bytes())
        content["files"][name] |= changes
        meta.write_text(json.dumps(content))

    return poison


def renamed(new: str) -> Poison:
    def poison(meta: Path) -> None:
        content = json.loads(meta.read_bytes())
        content["files"][new] = content["files"].pop("x_clip.npy")
        meta.write_text(json.dumps(content))

    return poison


def content(name: str, make: Callable[[Path], bytes], **changes: Any) -> Poison:
    """Another content, which the meta file calls right."""

    def poison(meta: Path) -> None:
        data = make(meta.parent / "ran")
        meta.with_name(name).write_bytes(data)
        whole = json.loads(meta.read_bytes())
        whole["files"].setdefault(name, {})
        meta.write_text(json.dumps(whole))
        facts_of(name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), **changes)(meta)

    return poison


def npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npz_bomb(_: Path) -> bytes:
    """64 MB of zeros in 64 kB, under the name of 48 bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("g_feature.npy", npy(np.zeros((1 << 22, 4), np.float32)))
        archive.writestr("timestamps_ms.npy", npy(np.arange(3.0)))
    return buffer.getvalue()


def instead(name: str, make: Callable[[Path], Any]) -> Poison:
    """Something else under the name of a file ("" is the meta file, or that of the folder)."""

    def poison(meta: Path) -> None:
        path = meta.with_name(name) if name else meta
        path.unlink()
        make(path)

    return poison


def in_h5(change: Callable[[Any, Path], Any]) -> Poison:
    def poison(archive: Path) -> None:
        with h5py.File(archive, "r+") as file:
            change(file, archive)

    return poison


def replaced(make: Callable[[Any, Path], Any]) -> Poison:
    """Its array `clip` is made anew."""

    def change(file: Any, archive: Path) -> None:
        del file["x"]["clip"]
        make(file["x"], archive)

    return in_h5(change)


def attribute(name: str, value: Any) -> Poison:
    return in_h5(lambda file, _: file["x"].attrs.__setitem__(name, value))


def elsewhere(group: Any, archive: Path) -> Any:
    archive.with_name("raw").write_bytes(CLIP.tobytes())
    return group.create_dataset("clip", (3, 4), "f4", external=[(str(archive.with_name("raw")), 0, CLIP.nbytes)])


def virtual(group: Any, archive: Path) -> None:
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource(str(archive.with_name("other.h5")), "x", (3, 4))
    group.create_virtual_dataset("clip", layout)


def spoilt(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[600::7] = bytes(byte ^ 0x55 for byte in data[600::7])
    archive.write_bytes(data)


CLIP_NPY = "x_clip.npy"
OF_NUMPY: dict[str, Poison] = {
    **{f"item {name[:9]!r}": record(item=name) for name in ("../../x", "/etc/x", "", "a\0b", "y" * 5000, "a/" * 2000)},
    **{f"item {name}": record(item=name) for name in (5, ".", " ", "other")},
    **{f"files {value}": record(files=value) for value in ([], {"a": 5}, {}, {"../a": {}})},
    **{f"source {str(value)[:20]}": record(source=value) for value in ({}, {"path": 5}, {"path": "x", "mtime": "y"})},
    "source with NUL": record(source={"path": "x\0"}),
    "huge number": lambda meta: meta.write_text(meta.read_text().replace('"m"', "9" * 5000)),
    "nan": record(settings={"a": float("nan")}),
    "wrong settings": record(settings=[]),
    "wrong provenance": record(provenance={"damage": 5}),
    "other format": record(format=2),
    "too deep": lambda meta: meta.write_text("[" * 200_000),
    "binary": lambda meta: meta.write_bytes(bytes(range(256))),
    "empty": lambda meta: meta.write_bytes(b""),
    "endless meta": instead("", lambda path: path.symlink_to("/dev/zero")),
    "huge meta": lambda meta: os.truncate(meta, 1 << 40),
    "meta is a pipe": instead("", os.mkfifo),
    "meta is a folder": instead("", Path.mkdir),
    "pipe": lambda meta: (instead(CLIP_NPY, os.mkfifo)(meta), facts_of(CLIP_NPY, bytes=0)(meta)),
    "device": lambda meta: (
        instead(CLIP_NPY, lambda path: path.symlink_to("/dev/zero"))(meta),
        facts_of(CLIP_NPY, bytes=0)(meta),
    ),
    **{f"file {name!r}": renamed(name) for name in ("..", "a\0b")},
    **{f"key {key!r}": facts_of(CLIP_NPY, key=key) for key in ("../../x", 5, [1])},
    "objects": content(CLIP_NPY, lambda ran: npy(np.array([Evil(ran)]), allow_pickle=True), shape=[1], dtype="object"),
    "huge shape": content(
        CLIP_NPY, lambda _: npy(CLIP).replace(b"(3, 4), }        ", b"(3000000000, 4), }"), shape=[3_000_000_000, 4]
    ),
    "other dtype": content(CLIP_NPY, lambda _: npy(CLIP.astype(np.complex64))),
    "times": content(CLIP_NPY, lambda _: npy(np.zeros(3, "M8[s]")), shape=[3], dtype="datetime64[s]"),
    "rows differ": content(CLIP_NPY, lambda _: npy(np.ones((7, 4), np.float32)), shape=[7, 4]),
    "array of nan": content(CLIP_NPY, lambda _: npy(CLIP * np.nan)),
    "deep predictions": content("x_predictions.json", lambda _: b"[" * 100_000),
    "no predictions": content("x_predictions.json", lambda _: b"5"),
}
CLIP_PKL = "x_clip.pkl"
OF_PICKLE: dict[str, Poison] = {
    "code": content(CLIP_PKL, lambda ran: pickle.dumps(Evil(ran))),
    "code in an array": content(CLIP_PKL, lambda ran: pickle.dumps(np.array([Evil(ran)], dtype=object))),
    "no array": content(CLIP_PKL, lambda _: pickle.dumps(5)),
    "more than recorded": content(CLIP_PKL, lambda _: pickle.dumps(np.zeros((1000, 4)))),
    "truncated": content(CLIP_PKL, lambda _: pickle.dumps(CLIP)[:-9]),
}
OF_NPZ: dict[str, Poison] = {
    "bomb": content("x.npz", npz_bomb),
    "code": content("x.npz", lambda ran: npz(g_feature=np.array([Evil(ran)]), timestamps_ms=np.arange(3.0))),
    "others": content("x.npz", lambda _: npz(x=CLIP)),
    "no zip": content("x.npz", lambda _: npy(CLIP)),
    "wrong facts": facts_of("x.npz", arrays=5),
}
OF_HDF5: dict[str, Poison] = {
    "folder": instead("", Path.mkdir),
    "pipe": instead("", os.mkfifo),
    "empty": lambda archive: archive.write_bytes(b""),
    "truncated": lambda archive: os.truncate(archive, archive.stat().st_size // 2),
    "spoilt": spoilt,
    "objects": replaced(lambda group, _: group.create_dataset("clip", data=["a"] * 3, dtype=h5py.string_dtype())),
    "link to another file": replaced(lambda group, _: group.__setitem__("clip", h5py.ExternalLink("/etc/x.h5", "x"))),
    "link to nothing": replaced(lambda group, _: group.__setitem__("clip", h5py.SoftLink("/nowhere"))),
    "values in another file": replaced(elsewhere),
    "virtual": replaced(virtual),
    "huge": replaced(lambda group, _: group.create_dataset("clip", (10**9, 1000), "f4", chunks=(1000, 1000))),
    "wrong record": attribute("record", 5),
    "array as record": attribute("record", np.zeros(3)),
    "deep predictions": attribute("predictions", "[" * 50_000),
    "no predictions": attribute("predictions", "5"),
}
CASES = [
    (f"{form.name}: {name}", form, poison)
    for form, cases in zip(FORMS, (OF_NUMPY, OF_PICKLE, OF_NPZ, OF_HDF5), strict=True)
    for name, poison in cases.items()
]


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each case, and a good one before and behind them."""
    root = tmp_path_factory.mktemp("poisoned")
    for name in ("000", "zzz"):
        saved(root / name, SaveNumpy(), f"good{name}")
    for number, (_, form, poison) in enumerate(CASES, start=1):
        poison(saved(root / f"{number:03}", form))
    return root


@pytest.mark.parametrize("into", [SaveNumpy(), SaveHdf5()], ids=["numpy", "hdf5"])
def test_each_costs_one_item(poisoned: Path, into: Form, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = set(poisoned.rglob("*"))
    assert convert(input_path=str(poisoned), forms=FORMS, on_extraction=[into], output_path=tmp_path / "out") == 1
    lines = [json.loads(line) for line in (tmp_path / "out" / "ledger.jsonl").read_bytes().splitlines()]
    failed = {line["path"] for line in lines if line.get("status") == "failed"}
    reasons = {line["reason"] for line in lines if line.get("status") == "failed"}
    spared = [
        name
        for number, (name, _, _) in enumerate(CASES, start=1)
        if not any(f"/{number:03}/" in path for path in failed)
    ]
    assert spared == ([] if into.name == "numpy" else ["numpy: key '../../x'"])  # of its own file, a fine name
    assert not any("\n" in reason for reason in reasons)
    assert [line["item"] for line in lines if line.get("status") == "done"] == [
        "good000",
        *["x" for _ in spared],
        "goodzzz",
    ]
    assert set(poisoned.rglob("*")) == before
    assert "Traceback" not in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_resume_looks_at_all_and_opens_nothing(poisoned: Path) -> None:
    done, in_the_way = set(), []
    for number, (name, form, _) in enumerate(CASES, start=1):
        root = poisoned / f"{number:03}"
        try:
            if Store(root, [form]).done(Item(root / "x.mp4", "x"), "clip/m", {"model": "m"}):
                done.add(name)
        except UserError as error:  # an .h5 that is none is in the way of all that would be saved
            of_settings = f"{root}/clip/m: holds results of other settings"  # with a nan in them, say
            in_the_way.append(str(error).startswith((f"{root}/clip/m.h5: ", of_settings)))
    assert in_the_way
    assert all(in_the_way)
    assert not list(poisoned.rglob("ran"))
    # Of the others a whole file has the checksum that stands beside it: opened by `convert` alone, see above.
    spoilt = ("item", "files", "source", "huge", "nan", "wrong s", "other f", "too", "empty", "endless", "meta", "pipe")
    assert not [name for name in done if name.startswith(tuple(f"numpy: {start}" for start in spoilt))]
    assert done <= {name for name, _, _ in CASES}


def test_show_saved_shows_the_others(poisoned: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "show_saved.py"), str(poisoned)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x_clip.npy  (3, 4) float32") >= 2
    assert "Traceback" not in done.stderr
    assert "000" in done.stdout
    assert done.stdout.count("cannot be shown") > 20
