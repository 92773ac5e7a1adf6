"""The job from end to end with a tiny model of random weights, and what it leaves on the disk."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.clip.evaluate import evaluate
from evaluation.clip.retrieval import Retrieval
from evaluation.report import rounded, table, write_report
from evaluation.result import Result
from evaluation.subject import Subject
from models.load import ModelChoice
from pairs.captioned_images import scene_images
from store.provenance import file_sha256
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_clip import write_tiny_checkpoint
from utils.errors import UserError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny=1.pt")


@pytest.fixture(scope="module")
def subject(checkpoint):
    return Subject.load(ModelChoice(model_name=str(checkpoint), device="cpu"), batch_size=4)


@pytest.fixture
def classes(tmp_path):
    for name in ("cat", "dog"):
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(5):
                pixels = np.random.default_rng(k).integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{k}.png")
    return tmp_path


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "main.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_command_line(checkpoint, classes):
    (classes / "stsb.csv").write_text("a cat,a dog,1.0\na cat,a big cat,4.0\na car,an egg,0.0\n")
    done = run(
        *["--config-name", "evaluate", f"model_name={checkpoint}", "device=cpu", "num_scenes=8", "stsb_path=stsb.csv"],
        *["evaluation=[zero_shot,linear_probe,retrieval,geometry,sts]", "templates=none"],
        *["class_images_path=test", "probe_train_path=train", "output_path=out"],
        cwd=classes,
    )
    assert done.returncode == 0, done.stderr
    assert "| retrieval    | text_to_image_r1_percent" in done.stdout
    folder = classes / "out" / "tiny=1"
    written = json.loads((folder / "results.json").read_text())
    assert list(written["evaluations"]) == ["zero_shot", "linear_probe", "retrieval", "geometry", "sts"]
    assert written["model"]["weights_sha256"] == file_sha256(checkpoint)
    assert "--config-name evaluate" in written["command"]
    assert written["evaluations"]["zero_shot"]["data"]["num_images"] == 10
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *["results.json", "results.md", "zero_shot_confusion.png", "retrieval_recall.png"],
        *["geometry_cosines.png", "sts_tasks.png"],
    }
    for name in names:
        if name.endswith(".png"):
            with Image.open(folder / name) as picture:
                assert picture.size == (768, 576)
    assert not (classes / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluation=[zero_shot]"], "class_images_path: expected a folder"),
        (["evaluation=[]"], "evaluation=[]: expected"),
        (["pairs=karpathy"], "captions_path: expected Karpathy's json"),
    ],
)
def test_mistakes_get_one_line(arguments, message, tmp_path):
    done = run("--config-name", "evaluate", "model_name=absent.pt", *arguments, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_python_call_needs_no_hydra(checkpoint, tmp_path, capsys):
    status = evaluate(
        evaluation={"retrieval": Retrieval(pairs=scene_images(num_scenes=5))},
        output_path=tmp_path,
        model=ModelChoice(model_name=str(checkpoint), device="cpu"),
    )
    assert status == 0
    assert "rsum" in capsys.readouterr().out
    assert (tmp_path / "tiny=1" / "results.json").is_file()


def test_features_do_not_depend_on_the_batch(subject, checkpoint):
    images = [lambda k=k: Image.new("RGB", (40, 50), (k * 20, 0, 99)) for k in range(9)]
    one = Subject.load(ModelChoice(model_name=str(checkpoint), device="cpu"), batch_size=1)
    assert subject.images(images) == pytest.approx(one.images(images), abs=1e-5)


def test_equal_texts_are_encoded_once(subject):
    features = subject.texts(["a", "b", "a"])
    assert np.array_equal(features[0], features[2])
    assert not np.allclose(features[0], features[1])


def test_long_texts_are_cut(subject):
    assert subject.texts(["word " * 300]).shape == (1, 16)


def test_features_that_are_no_numbers_are_refused(subject, monkeypatch):
    monkeypatch.setattr(subject.encoder, "texts", lambda texts, truncate: np.full((len(texts), 16), np.nan, np.float32))
    with pytest.raises(UserError, match="not finite"):
        subject.texts(["a"])


def test_report_survives_a_failure_on_the_way(tmp_path):
    """What is there stays as it was if a plot fails."""

    def fails(axes):
        raise RuntimeError("no plot")

    def write(command, **results):
        write_report(tmp_path, "results.json", {"command": command}, title="x", sections={}, results=results)

    write("command", a=Result({}, {"value": 1.0}))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError, match="no plot"):
        write("other", a=Result({}, {"value": 2.0}, plots={"p": fails}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_table_reads_as_markdown():
    assert table({"sts": Result({}, {"rho": 0.51234, "n": 12.0})}).splitlines() == [
        "| evaluation | metric |  value |",
        "| ---------- | ------ | -----: |",
        "| sts        | rho    | 0.5123 |",
        "| sts        | n      |  12.00 |",
    ]


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [(0.0, "", "0.0000"), (1e-7, "", "1.0e-07"), (-2.5, "", "-2.5000"), (1.0, "r1_percent", "1.00")],
)
def test_rounded(value, key, text):
    assert rounded(value, key) == text
