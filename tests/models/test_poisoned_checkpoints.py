"""Checkpoints from anywhere: none runs code, none is waited for, and what is wrong with one is told in one line."""

import ast
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.captioner.checkpoint import EMBEDDED, load_captioner
from models.clip.weights import load_model
from models.open_clip.family import load as load_open_clip
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_clip import tiny_model
from training import checkpoint
from training.captioning.grammar_head import load_head
from utils.errors import UserError

CONV, NORM, PROJ = "visual.conv1.weight", "visual.ln_post.weight", "visual.proj"
LOADERS: dict[str, Callable[[Path], Any]] = {
    "clip": load_model,
    "captioner": load_captioner,
    "training": checkpoint.load,
    "grammar": load_head,
}


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


@cache
def clip_state() -> dict[str, Tensor]:
    return tiny_model().state_dict()


@cache
def captioner() -> dict[str, Any]:
    return torch.load(EMBEDDED["tiny"], weights_only=True)


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def torchscript(path: Path, evil: Evil) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("constants.pkl", "data.pkl"):
            archive.writestr(f"x/{name}", pickle.dumps(evil))
        archive.writestr("x/version", "3")
        archive.writestr("x/code/__torch__.py", "import os")


def bomb(path: Path) -> None:
    """32 MB of zeros in 32 kB."""
    whole = saved(path.with_name("whole"), {CONV: torch.zeros(8)})
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, bytes(1 << 25) if "/data/" in name else old.read(name))


ODD_FILES: dict[str, Callable[[Path, Evil], Any]] = {
    "code": lambda path, evil: saved(path, {"model": evil, "loss": evil, "state_dict": evil}),
    "code in the old format": lambda path, evil: saved(path, {"model": evil}, _use_new_zipfile_serialization=False),
    "a pickle": lambda path, evil: path.write_bytes(pickle.dumps(evil)),
    "code in TorchScript": torchscript,
    "a module": lambda path, _: saved(path, torch.nn.Linear(1, 1)),
    "bomb": lambda path, _: bomb(path),
    "empty": lambda path, _: path.write_bytes(b""),
    "text": lambda path, _: path.write_text("hello"),
    "a list": lambda path, _: saved(path, [1, 2]),
    "keys are numbers": lambda path, _: saved(path, {5: torch.ones(3)}),
    "half of it": lambda path, _: os.truncate(saved(path, clip_state()), 3_000_000),
    "a pipe": lambda path, _: os.mkfifo(path),
    "a folder": lambda path, _: path.mkdir(),
    "a device": lambda path, _: path.symlink_to("/dev/zero"),
    "nothing": lambda path, _: None,
}


@pytest.mark.parametrize("odd", ["code", "code in TorchScript", "a pipe"])
def test_odd_files_for_open_clip(odd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.init.kaiming_normal_", lambda *_, **__: None)  # nobody sees these weights
    ODD_FILES[odd](tmp_path / "x.pt", Evil(tmp_path / "ran"))
    with pytest.raises(UserError) as caught:
        load_open_clip("RN50", pretrained=str(tmp_path / "x.pt"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("odd", ODD_FILES)
@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_odd_files(loader: str, odd: str, tmp_path: Path) -> None:
    ODD_FILES[odd](tmp_path / "x.pt", Evil(tmp_path / "ran"))
    with pytest.raises(UserError) as caught:
        LOADERS[loader](tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
    assert "x.pt" in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("data", [b"", b"\xff" * 8 + b"{}", (2).to_bytes(8, "little") + b"[]", pickle.dumps(5)])
def test_odd_safetensors(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_model(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", ["x" * 5000, "d/" * 3000, "a\0b"])
@pytest.mark.parametrize("loader", LOADERS)
def test_names_of_no_file(loader: str, name: str) -> None:
    with pytest.raises(UserError):
        LOADERS[loader](Path(name))


ODD_TENSORS: dict[str, Callable[[], dict[Any, Any]]] = {
    "whole numbers": lambda: {CONV: clip_state()[CONV].to(torch.int32)},
    "truth values": lambda: {CONV: clip_state()[CONV] > 0},
    "complex": lambda: {CONV: clip_state()[CONV].to(torch.complex64)},
    "quantised": lambda: {CONV: torch.quantize_per_tensor(clip_state()[CONV], 0.1, 0, torch.qint8)},
    "sparse": lambda: {PROJ: clip_state()[PROJ].to_sparse()},
    "without values": lambda: {CONV: clip_state()[CONV].to("meta")},
    "nan": lambda: {NORM: clip_state()[NORM] * torch.nan},
    "one number": lambda: {CONV: torch.tensor(1.0)},
    "no number": lambda: {PROJ: torch.zeros(0)},
    "huge": lambda: {"positional_embedding": torch.zeros(1, 1).expand(10**8, 64)},
    "huge width": lambda: {"ln_final.weight": torch.zeros(1).expand(10**9)},
    "one more": lambda: {"foo": torch.ones(3)},
}


@pytest.mark.parametrize("odd", ODD_TENSORS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of quantised and sparse tensors
def test_odd_tensors(odd: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", clip_state() | ODD_TENSORS[odd]())
    with pytest.raises(UserError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("width", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_that_lie_otherwise_are_the_same_weights(width: torch.dtype, tmp_path: Path) -> None:
    """Transposed, expanded, shared and of another width: read into tensors of their own."""
    state = {key: value.to(width) if value.is_floating_point() else value for key, value in clip_state().items()}
    whole = state | {NORM: torch.ones(len(state[NORM]), dtype=width)}
    odd = whole | {NORM: torch.ones(1, dtype=width).expand(len(state[NORM])), PROJ: whole[PROJ].t().contiguous().t()}
    odd["visual.ln_pre.weight"] = odd["visual.ln_pre.bias"] = whole["visual.ln_pre.bias"]
    whole["visual.ln_pre.weight"] = whole["visual.ln_pre.bias"].clone()
    models = [load_model(saved(tmp_path / f"{i}.pt", content)).state_dict() for i, content in enumerate((whole, odd))]
    assert all(torch.equal(models[0][key], value) and value.is_contiguous() for key, value in models[1].items())
    assert len({value.data_ptr() for value in models[1].values()}) == len(models[1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"arguments": 5},
        {"arguments": {"width": 10**8}},
        {"words": 5},
        {"words": [1, 2, 3]},
        {"features": 5},
        {"captioner": 5},
        {"captioner": {5: torch.ones(1)}},
    ],
)
def test_captioners_whose_parts_are_wrong(wrong: dict[str, Any], tmp_path: Path) -> None:
    path = saved(tmp_path / "x.pt", captioner() | wrong)
    with pytest.raises(UserError, match=r"x\.pt: "):
        load_captioner(path)


@pytest.mark.parametrize("change", [lambda value: value * torch.nan, lambda value: value.to(torch.complex64)])
def test_captioners_of_odd_tensors(change: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    state = {key: change(value) for key, value in captioner()["captioner"].items()}
    with pytest.raises(UserError, match=r"nan or infinite|complex"):
        load_captioner(saved(tmp_path / "x.pt", captioner() | {"captioner": state}))


def calls(source: str) -> list[tuple[str, dict[str, str]]]:
    """Every call of `a.b` and its keywords."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        (ast.unparse(node.func), {each.arg or "": ast.unparse(each.value) for each in node.keywords}) for node in nodes
    ]


BETWEEN_OURSELVES = ("fork_server.py", "reader_process.py")  # over a pair of sockets that nobody else has


def test_nothing_that_is_read_can_run() -> None:
    """Every place that unpickles says that it wants tensors, or arrays, alone."""
    found = set()
    for path in ROOT.glob("*/**/*.py"):
        if path.relative_to(ROOT).parts[0] in (".venv", "tests", "benchmarks", "sample"):
            continue
        if path.name in BETWEEN_OURSELVES:
            continue
        for name, options in calls(path.read_text(encoding="utf-8")):
            where = f"{path.relative_to(ROOT)}: {name}"
            if name == "torch.load":
                assert options.get("weights_only") == "True", where
            if name == "np.load":
                assert options.get("allow_pickle") == "False", where
            if name in ("torch.load", "np.load", "torch.jit.load"):
                found.add(name)
            assert name not in ("pickle.load", "pickle.loads", "eval", "exec", "yaml.unsafe_load", "np.fromfile"), where
            assert name != "yaml.load" or path.name == "command_line.py", where  # BaseLoader: texts alone
            assert not name.endswith((".extractall", "joblib.load", "shelve.open", "marshal.loads")), where
    assert found == {"torch.load", "np.load", "torch.jit.load"}
