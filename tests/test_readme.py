"""README.md tells the truth: its commands and its Python run, its table and its file tree are those of the checkout.

`ViT-B/32` stands for tiny random weights here; everything else runs as written, in a folder with only sample/ in it.
"""

import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tests.helpers.architectures import ARCHITECTURES
from tests.helpers.documented import PROGRAM, blocks, commands, run_here
from tests.helpers.tiny_clip import write_tiny_checkpoint

pytestmark = pytest.mark.timeout(300)  # several runs of the program in one test

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


COMMANDS = [words for block in blocks(README, "bash") for words in commands(block) if words[:2] == PROGRAM]


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny.pt")


@pytest.fixture(scope="module")
def full_size(tmp_path_factory) -> Path:
    """ViT-B/32 with random weights, in half precision: a preset insists on its shapes."""
    torch.manual_seed(0)
    model = ARCHITECTURES["ViT-B/32"].build()
    model.initialize()
    path = tmp_path_factory.mktemp("weights") / "ViT-B-32.pt"
    torch.save({key: value.half() for key, value in model.state_dict().items()}, path)
    return path


QUOTED = next(words for words in COMMANDS if any("it's" in word for word in words))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder: a place with the program and the samples, for whatever a command leaves behind."""
    for name in ("main.py", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "sample", tmp_path / "sample")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_weights(words: list[str], checkpoint: Path) -> list[str]:
    return [*(word for word in words if not word.startswith("model_name=")), f"model_name={checkpoint}"]


def run_in_shell(words: list[str]) -> None:
    """The commands around the program: `cp`, `find > file`, `python tools/...`."""
    words = [sys.executable if word == "python" else word for word in words]
    subprocess.run(" ".join(word if word == ">" else shlex.quote(word) for word in words), shell=True, check=True)


SUFFIXES = {
    ".npy": ("save_numpy",),
    ".pkl": ("save_pickle",),
    ".npz": ("save_npz",),
    "_predictions.json": ("show_pred",),
}
VIDEOS = ["v_GGSY1Qvo990", "v_ZNVhz7ctTq0"]
PHOTOS = ["astronaut", "cat", "coffee", "rocket"]


def expected_items(given: str) -> list[str]:
    if " texts=" in given:
        return ["texts"]
    return PHOTOS if any(key in given for key in ("image_paths", "annotations", "convert")) else VIDEOS


def check_saved(output: Path, words: list[str]) -> None:
    """All samples, in the forms asked for, each file as its meta file says."""
    given = " ".join(words)
    assert (output / "ledger.jsonl").is_file()
    if "save_hdf5" in given:
        (path,) = output.rglob("*.h5")
        with h5py.File(path) as file:
            assert sorted(file) == expected_items(given)
        return
    records = [json.loads(meta.read_bytes()) for meta in output.rglob("*_meta.json")]
    assert sorted(record["item"] for record in records) == expected_items(given)
    for record in records:
        for suffix, options in SUFFIXES.items():
            saved = any(name.endswith(suffix) for name in record["files"])
            assert saved == any(option in given for option in options)
        for name, facts in record["files"].items():
            (path,) = output.rglob(name)
            assert path.stat().st_size == facts["bytes"]
            if name.endswith(".npy"):
                assert list(np.load(path).shape) == facts["shape"]


def check_printed(printed: str, words: list[str]) -> None:
    shown = "print" in " ".join(words) or not any(word.startswith("on_extraction") for word in words)
    for key in ("clip", "fps", "timestamps_ms"):
        assert bool(re.search(rf"^{key}$", printed, re.MULTILINE)) == shown
    assert printed.count("  Logits | Prob. | Label ") == 16 * any(word.startswith("show_pred") for word in words)


def check_captions(printed: str, output: Path, words: list[str]) -> None:
    """A line for each photo, or for each half second of the videos."""
    assert printed.count("(CLIP-S ") == (4 if "image_paths=sample" in words else 32)
    saved = sorted(path.name for path in output.rglob("*.vtt"))
    assert saved == ([f"{name}.vtt" for name in VIDEOS] if "save_captions" in " ".join(words) else [])


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("block", [block for block in blocks(README, "bash") if "python main.py" in block])
def test_commands_run(block, folder, monkeypatch, capfd, request):
    for words in commands(block):
        if words[:2] != PROGRAM:
            run_in_shell(words)
            continue
        converts, looks = "convert" in words, not {"plan", "verify"}.isdisjoint(words)
        if not (converts or looks):
            shutil.rmtree("output", ignore_errors=True)
        checkpoint = request.getfixturevalue("full_size" if "preset=" in " ".join(words) else "tiny_checkpoint")
        its_own = "--config-name" in words and "plan" not in words
        arguments = words[2:] if its_own else with_weights(words[2:], checkpoint)
        assert run_here(arguments, monkeypatch) == 0
        if looks:
            assert "unreadable" in (printed := capfd.readouterr().out) or "all is well" in printed
            continue
        if "caption" in words:
            check_captions(capfd.readouterr().out, folder / "output", words)
            continue
        check_printed(capfd.readouterr().out, words)
        if "save_" in " ".join(words):
            check_saved(folder / ("converted" if converts else "output"), words)
        else:
            assert not Path("output").exists()
        assert not Path("tmp").exists()
        assert not Path("outputs").exists()  # Hydra's own


@pytest.mark.parametrize("words", [COMMANDS[0], QUOTED], ids=["the first", "a name that needs quotes"])
def test_commands_run_as_a_process(words, tiny_checkpoint, folder):
    (folder / "it's a=1, b [2].mp4").symlink_to(ROOT / "sample" / "v_GGSY1Qvo990.mp4")
    words = [sys.executable, "main.py", *with_weights(words[2:], tiny_checkpoint)]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^[12] done", run.stderr, re.MULTILINE)
    assert run.stdout or (folder / "output" / "ledger.jsonl").is_file()


def test_the_video_features_commands_are_all_there():
    """Those of its CLIP page, but for the weights of another name: a user's scripts keep working."""
    known = [dict(word.split("=", 1) for word in words[2:] if "=" in word) for words in COMMANDS]
    two = "[./sample/v_ZNVhz7ctTq0.mp4, ./sample/v_GGSY1Qvo990.mp4]"
    one = {"feature_type": "clip", "model_name": "ViT-B/32"}
    gpu = one | {"device": "cuda:0"}
    texts = {"show_pred": "true", "pred_texts": "['a dog smiles', 'a woman is lifting']"}
    listed = "./sample/sample_video_paths.txt"
    for command in (
        one | {"extraction_fps": "1", "video_paths": "[./sample/v_GGSY1Qvo990.mp4]", "on_extraction": "print"},
        gpu | {"video_paths": two},
        gpu | {"on_extraction": "save_numpy", "file_with_video_paths": listed},
        gpu | {"batch_size": "128", "video_paths": two},
        gpu | {"extraction_fps": "5", "video_paths": two},
        gpu | {"extraction_fps": "1", "video_paths": two} | texts,
    ):
        assert command in known


@pytest.mark.parametrize("block", blocks(README, "python"))
def test_python_runs(block, tiny_checkpoint, folder):
    names: dict = {}
    exec(block.replace('"ViT-B/32"', repr(str(tiny_checkpoint))), names)
    assert names["texts"].shape == (2, 16)
    assert names["features"]["clip"].shape == (8, 16)
    assert names["features"]["timestamps_ms"].tolist() == list(range(0, 8000, 1000))
    assert names["extractor"].extract_image("sample/cat.jpg")["grid"].shape == (1, 4, 64)


def test_the_table_is_that_of_the_config() -> None:
    with_table = runpy.run_path(str(ROOT / "tools" / "readme_table.py"))["with_table"]
    assert with_table(README) == README, "stale: make format (or python tools/readme_table.py) brings it up to date"


def test_the_file_tree_is_there() -> None:
    (tree,) = blocks(README, "")
    missing = [line.split()[0] for line in tree.splitlines() if not (ROOT / line.split()[0]).exists()]
    assert not missing


def test_length() -> None:
    assert len(README.splitlines()) <= 400
