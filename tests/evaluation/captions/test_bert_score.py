"""BERT-S with small language models: the numbers of bert-score, and what a model has to be."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from evaluation.captions.bert_score import BertS, f_score, load_language_model
from evaluation.captions.caption_evaluate import caption_evaluate
from evaluation.captions.caption_set import CaptionSet
from models.load import ModelChoice
from tests.helpers.tiny_language_model import write_bert, write_roberta
from utils.errors import UserError

CAPTIONS = ["a red square on the left", "two blue circles", "", "red red green"]
REFERENCES = [
    ["A red square, on the left.", "There is a red square."],
    ["Two blue circles.", "Two circles in blue."],
    ["A green triangle."],
    ["a big one", ""],
]
# Of bert-score 0.3.13 with transformers 4.51.3: score(CAPTIONS, REFERENCES, model_type=FOLDER, num_layers=LAYER)[2]
EXPECTED = {
    ("bert", 2): (0.9596357, 0.9595763, 0.0000000, 0.6939672),
    ("bert", 3): (0.9770898, 0.9491900, 0.0000000, 0.4855011),
    ("roberta", 2): (0.9937232, 0.9933643, 0.0000000, 0.9709527),
    ("roberta", 3): (0.9956295, 0.9933640, 0.0000000, 0.9743025),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("language")
    return {"bert": str(write_bert(folder / "bert")), "roberta": str(write_roberta(folder / "roberta"))}


def captions_of(captions: list[str], references: list[list[str]]) -> CaptionSet:
    return CaptionSet([str(k) for k in range(len(captions))], captions, references)


@pytest.mark.parametrize(("name", "layer"), EXPECTED)
def test_numbers_of_bert_score(name: str, layer: int, models: dict[str, str]) -> None:
    result = BertS(model_name=models[name], layer=layer, device="cpu")(captions_of(CAPTIONS, REFERENCES))
    assert result.details["per_image"]["bert_s"] == pytest.approx(EXPECTED[name, layer], abs=2e-6)
    assert result.metrics["bert_s"] == pytest.approx(np.mean(EXPECTED[name, layer]), abs=2e-6)
    assert result.data == {"model": models[name], "layer": layer}


def test_scores_do_not_depend_on_the_other_captions(models: dict[str, str]) -> None:
    metric = BertS(model_name=models["roberta"], layer=3, device="cpu")
    alone = [metric(captions_of([c], [r])).metrics["bert_s"] for c, r in zip(CAPTIONS, REFERENCES, strict=True)]
    many = metric(captions_of(CAPTIONS * 30, REFERENCES * 30)).details["per_image"]["bert_s"]
    assert many == pytest.approx(alone * 30, abs=2e-6)


def test_the_nearest_may_be_a_token_that_does_not_count() -> None:
    first, second = np.eye(2, dtype=np.float32)
    caption, reference = np.stack([first, second]), np.stack([first, first])
    both, one = np.array([True, True]), np.array([True, False])
    assert f_score(caption, both, reference, both) == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert f_score(caption, one, reference, both) == pytest.approx(1)
    assert f_score(caption, both, reference, ~both) == f_score(caption, ~both, reference, both) == 0
    assert f_score(caption, both, -reference, both) == 0


def test_in_the_job(tmp_path: Path, models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("captions", CAPTIONS), ("references", REFERENCES)):
        (tmp_path / f"{name}.json").write_text(json.dumps(dict(enumerate(content))))
    metric = BertS(model_name=models["bert"], layer=2, device="cpu")
    files = {"predictions": str(tmp_path / "captions.json"), "references": str(tmp_path / "references.json")}
    assert caption_evaluate(caption_metric={"bert_s": metric}, **files, output_path=tmp_path, model=ModelChoice()) == 0
    written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert written["bert_s"] == pytest.approx(np.mean(EXPECTED["bert", 2]), abs=2e-6)
    assert written["settings"]["bert_s"]["layer"] == 2
    assert "| bert_s     | bert_s" in capsys.readouterr().out


def test_mistakes(tmp_path: Path, models: dict[str, str]) -> None:
    expected = {
        r"bert_model=x/y: expected bert_layer=N, known is that of roberta-large": {"model_name": "x/y"},
        r"bert_layer=0: expected a whole number, 1 or more": {"layer": 0},
        r"bert_layer=4: bert_model=.* has 3$": {"model_name": models["bert"], "layer": 4},
        r"bert_model=\./absent: no such folder": {"model_name": "./absent", "layer": 1},
        r"bert_model=roberta-large: expected the folder .*; not in the hub's cache .* offline=true": {"offline": True},
        r"bert_model=roberta-large: expected the folder .*; not in the hub's cache": {},
        r"bert_model=.*: transformers cannot load it \(Unrecognized": {"model_name": str(tmp_path), "layer": 1},
    }
    for message, arguments in expected.items():
        with pytest.raises(UserError, match=message):
            BertS(**{"device": "cpu"} | arguments)


def test_folders_that_lack_something_are_refused(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "bert")
    (folder / "vocab.txt").unlink()
    with pytest.raises(UserError, match="bert: no vocabulary there: expected"):
        load_language_model(str(folder), offline=True)
    weights = load_file(folder / "model.safetensors")
    save_file({name: values for name, values in weights.items() if "layer.1" not in name}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"bert: 16 weights are missing, encoder\.layer\.1\.\S+ for one$"):
        load_language_model(str(folder), offline=True)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="bert: expected the folder of a model"):
        load_language_model(str(folder), offline=True)
