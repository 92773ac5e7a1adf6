"""The job from end to end: files of every layout, mistakes, and what it leaves on the disk."""

import csv
import gzip
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from PIL import Image

from evaluation.captions import java_metrics
from evaluation.captions.caption_evaluate import caption_evaluate
from evaluation.captions.caption_files import find_images, read_predictions, read_references
from evaluation.captions.caption_set import CaptionSet
from evaluation.captions.finecapeval import FineCapEval
from evaluation.captions.score import language_metrics, score_captions
from evaluation.result import Result
from models.load import ModelChoice
from tests.helpers.configs import composed
from tests.helpers.shared_data import ROOT, SHARED
from tests.helpers.tiny_language_model import write_bert
from utils.command_line import CONFIGS
from utils.errors import UserError

CAPTIONS = {"1": "a red square on the left", "2": "two blue circles", "3": "a green triangle in the middle"}
REFERENCES = {
    "1": ["A red square, on the left.", "There is a red square."],
    "2": ["Two blue circles.", "Two circles in blue."],
    "3": ["A green triangle.", "It's a green triangle in the middle."],
}


FINE = r"""image,caption,background,object,relation
1.png,A red square.,left,red square\;shape,on
2.png,Circles.,paper,blue circles,beside
"""


def coco(references: dict[str, list[str]]) -> dict[str, Any]:
    annotations = [(image_id, caption) for image_id, captions in references.items() for caption in captions]
    return {
        "images": [{"id": int(image_id), "file_name": f"{int(image_id):012}.png"} for image_id in references],
        "annotations": [
            {"id": k, "image_id": int(image_id), "caption": caption}
            for k, (image_id, caption) in enumerate(annotations)
        ],
    }


def karpathy(references: dict[str, list[str]]) -> dict[str, Any]:
    entries = [
        {
            "cocoid": int(image_id),
            "imgid": number,
            "filename": f"{int(image_id):012}.png",
            "filepath": "val2014",
            "split": "test" if number < 2 else "val",
            "sentences": [{"raw": caption, "tokens": caption.lower().split()} for caption in captions],
        }
        for number, (image_id, captions) in enumerate(references.items())
    ]
    return {"images": entries, "dataset": "coco"}


def results(captions: dict[str, str]) -> list[dict[str, Any]]:
    return [{"image_id": int(image_id), "caption": caption} for image_id, caption in captions.items()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Predictions, references in four layouts, and the images."""
    contents = {
        "captions": results(CAPTIONS),
        "mapping": CAPTIONS,
        "coco": coco(REFERENCES),
        "karpathy": karpathy(REFERENCES),
        "plain": REFERENCES,
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [(f"{image_id}.png", caption) for image_id, captions in REFERENCES.items() for caption in captions]
        csv.writer(file).writerows([("image", "caption"), *rows])
    (tmp_path / "images").mkdir()
    for image_id in REFERENCES:
        pixels = np.random.default_rng(int(image_id)).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{int(image_id):012}.png")
    return tmp_path


def evaluated(folder: Path, **changed: Any) -> dict[str, Any]:
    """metrics.json of a run; values of `changed` may be the content of a json file."""
    arguments = {"predictions": "captions.json", "references": "coco.json"} | changed
    for key in ("predictions", "references"):
        if not isinstance(arguments[key], str):
            (folder / f"given_{key}.json").write_text(json.dumps(arguments[key]))
            arguments[key] = f"given_{key}.json"
        arguments[key] = str(folder / arguments[key])
    output = folder / "out"
    given = {"caption_metric": language_metrics(), "output_path": output, "model": ModelChoice(model_name="tiny")}
    status = caption_evaluate(**given | arguments)
    return json.loads((output / "metrics.json").read_text(encoding="utf-8")) | {"status": status}


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "main.py"), "--config-name", "caption_evaluate", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done


def test_command_line_with_images(folder: Path, tiny: Path) -> None:
    done = run(
        *["predictions=captions.json", "references=coco.json", "output_path=out", "image_folder=images"],
        *["caption_metric=[bleu,rouge_l,cider,clip_s,ref_clip_s,retrieval]", f"model_name={tiny}", "device=cpu"],
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "| clip_s     | clip_s " in done.stdout
    written = json.loads((folder / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert len(written["bleu"]) == 4
    assert 0 <= written["clip_s"] <= 2.5
    assert written["settings"]["clip_s"] == {"prefix": "A photo depicts "}
    assert written["data"]["model"]["precision"] == "fp32"
    assert set(written["per_image"]["2"]) == {
        *["caption", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"],
        *["clip_s", "ref_clip_s", "text_to_image_rank", "image_to_text_rank"],
    }
    assert written["per_image"]["2"]["caption"] == CAPTIONS["2"]
    assert "--config-name caption_evaluate" in written["command"]
    assert "| cider      | cider" in (folder / "out" / "results.md").read_text(encoding="utf-8")
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"images", "out"}


def test_a_mistake_is_one_line(folder: Path) -> None:
    done = run("caption_metric=[finecapeval]", "predictions=captions.json", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: finecapeval: expected FineCapEval.csv\n"
    assert not (folder / "output").exists()


def test_a_prefix_is_a_text(folder: Path) -> None:
    done = run("caption_metric=clip_s", "clip_prefix=null", "predictions=captions.json", cwd=folder)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: clip_prefix=None: expected a text")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictions": None}, r"predictions: expected a json file, \[{image_id, caption}\]"),
        ({"references": None}, "references: expected COCO's or Karpathy's json"),
        ({"split": "val"}, "split=val: references=.* has no splits; leave split out"),
        ({"only_predicted": "perhaps"}, "only_predicted=perhaps: expected true or false"),
        ({"only_matching": "perhaps"}, "only_matching=perhaps: expected true or false"),
        ({"references": "nothing.json"}, "references=nothing.json: expected COCO's"),
        ({"predictions": "nothing.json"}, "predictions=nothing.json: expected"),
        ({"caption_metric": {}}, r"caption_metric=\[\]: expected bleu"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str, folder: Path) -> None:
    given = {
        "caption_metric": language_metrics(),
        "predictions": str(folder / "captions.json"),
        "references": str(folder / "coco.json"),
        "output_path": folder / "out",
        "model": ModelChoice(model_name="tiny"),
    }
    with pytest.raises(UserError, match=message):
        caption_evaluate(**given | arguments)
    assert not (folder / "out").exists()


def test_the_page_knows_every_metric_and_its_commands_are_understood() -> None:
    page = (ROOT / "evaluation" / "captions" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)))) >= set(OPTIONS)
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith("python main.py")]
    assert len(commands) == 5
    for command in commands:
        composed(command[3], *command[4:])


OPTIONS = sorted(path.stem for path in (CONFIGS / "caption_evaluate/caption_metric").glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_metric_builds_from_its_file(option: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java_metrics, "missing", lambda name: None)
    (folder / "fine.csv").write_text(FINE, encoding="utf-8")
    given = [f"finecapeval={folder / 'fine.csv'}", "device=cpu"]
    if option == "bert_s":
        given += [f"bert_model={write_bert(folder / 'bert')}", "bert_layer=1"]
    config = composed("caption_evaluate", f"caption_metric=[{option}]", *given)
    built = instantiate(config.job.caption_metric, _convert_="all")
    assert list(built) == [option]
    assert callable(built[option])


def test_numbers_are_those_of_the_function(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = evaluated(folder)
    expected = score_captions(CAPTIONS, REFERENCES)
    assert written["bleu"] == pytest.approx([expected[f"bleu_{order}"] for order in (1, 2, 3, 4)])
    others = {key: value for key, value in expected.items() if not key.startswith("bleu")}
    assert {key: written[key] for key in others} == pytest.approx(others)
    assert np.mean([image["cider"] for image in written["per_image"].values()]) == pytest.approx(expected["cider"])
    assert (written["status"], written["data"]["num_images"], written["data"]["num_references"]) == (0, 3, 6)
    assert "| cider " in capsys.readouterr().out


@pytest.mark.parametrize("predictions", ["captions.json", "mapping.json"])
@pytest.mark.parametrize("references", ["coco.json", "karpathy.json", "plain.json", "rows.csv"])
def test_all_layouts_say_the_same(predictions: str, references: str, folder: Path) -> None:
    found = read_references(folder / references)
    assert found.captions == REFERENCES
    assert read_predictions(folder / predictions) == CAPTIONS
    images = [path.name for path in sorted((folder / "images").iterdir())]
    if references in ("coco.json", "karpathy.json"):
        sizes = [image().size for image in find_images(found, CAPTIONS, folder / "images")]
        assert sizes == [(50, 40)] * len(images)


def test_split_of_karpathy(folder: Path) -> None:
    written = evaluated(folder, predictions=results({"1": "a", "2": "b"}), references="karpathy.json", split="test")
    assert written["data"]["without_prediction"] == []
    with pytest.raises(UserError, match=r"1 of 3 images have no references: 3; .*is `split` the right one\?"):
        evaluated(folder, references="karpathy.json", split="test")
    with pytest.raises(
        UserError, match=r"split=tets: did you mean test\? .* splits test \(2 images\), val \(1 images\)$"
    ):
        evaluated(folder, references="karpathy.json", split="tets")


def test_only_matching_scores_the_others_and_counts(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    hint = r"1 of 3 images have no references: 3; .*; only_matching=true scores the other 2$"
    with pytest.raises(UserError, match=hint):
        evaluated(folder, references="karpathy.json", split="test")
    written = evaluated(folder, references="karpathy.json", split="test", only_matching=True)
    assert (written["data"]["num_images"], written["data"]["without_references"]) == (2, ["3"])
    two = {key: CAPTIONS[key] for key in ("1", "2")}
    assert written["rouge_l"] == pytest.approx(score_captions(two, REFERENCES)["rouge_l"])
    assert "1 predictions have no references and are left out, 2 are scored; left out: 3" in caplog.text
    both = evaluated(folder, predictions=results({"2": "a", "9": "b"}), only_matching=True, only_predicted=False)
    assert list(both["per_image"]) == ["1", "2", "3"]
    with pytest.raises(UserError, match=r"1 of 1 images have no references: 9; .*right one\?\)$"):
        evaluated(folder, predictions=results({"9": "b"}), only_matching=True)


def test_coco_references_need_no_file_names(folder: Path) -> None:
    bare = coco(REFERENCES) | {"info": {}, "licenses": [], "type": "captions"}
    bare["images"] = [{"id": 1}, {"id": 2, "file_name": None}, {}]
    assert evaluated(folder, references=bare)["cider"] == evaluated(folder)["cider"]
    found = read_references(folder / "given_references.json")
    pictures = sorted((folder / "images").iterdir())
    sizes = [np.asarray(image()).sum() for image in find_images(found, CAPTIONS, folder / "images")]
    assert sizes == [np.asarray(Image.open(path)).sum() for path in pictures]  # 2 is 000000000002.png
    Image.new("RGB", (2, 2)).save(folder / "images" / "COCO_val2014_000000000002.png")
    with pytest.raises(UserError, match="1 images are missing: 2"):  # of two with that number, neither
        find_images(found, CAPTIONS, folder / "images")
    Image.new("RGB", (2, 2)).save(folder / "images" / "2.png")
    assert [image().size for image in find_images(found, ["2"], folder / "images")] == [(2, 2)]


COCO_CAPTION = Path(__file__).parent / "golden" / "coco_caption" / "captions_val2014_fakecap_results.json.gz"
# pycocoevalcap 1.2 with Stanford's tokenizer: BLEU-1 to 4, ROUGE-L, CIDEr, METEOR
FAKECAP = (0.585476563, 0.4047379859, 0.2825074892, 0.1982654397, 0.4079801045, 0.6277218728)
FAKECAP_METEOR = 0.205084


def test_results_of_coco_caption(tmp_path: Path) -> None:
    """Its example of results as it stands: 1,000 captions; references of two of the images, in COCO's layout."""
    (tmp_path / "fakecap.json").write_bytes(gzip.decompress(COCO_CAPTION.read_bytes()))
    given = read_predictions(tmp_path / "fakecap.json")
    assert len(given) == 1000
    two = {image_id: [given[image_id]] for image_id in ("404464", "380932")}
    written = evaluated(tmp_path, predictions="fakecap.json", references=coco(two), only_matching=True)
    assert (written["data"]["num_images"], len(written["data"]["without_references"])) == (2, 998)
    assert written["bleu"] == pytest.approx([1, 1, 1, 1])


@pytest.mark.shared
def test_numbers_of_coco_caption(tmp_path: Path) -> None:
    """Those of its results that are in val2017, against COCO's file: the numbers of pycocoevalcap."""
    references = SHARED / "data" / "coco_captions_subset" / "captions_val2017_full.json.gz"
    for name, packed in (("fakecap", COCO_CAPTION), ("captions_val2017", references)):
        (tmp_path / f"{name}.json").write_bytes(gzip.decompress(packed.read_bytes()))
    metrics: dict[str, Any] = language_metrics()
    if java_metrics.missing("meteor") is None:
        metrics["meteor"] = java_metrics.JavaMetric(name="meteor")
    chosen = {"references": "captions_val2017.json", "only_matching": True, "caption_metric": metrics}
    written = evaluated(tmp_path, predictions="fakecap.json", **chosen)
    assert [*written["bleu"], written["rouge_l"], written["cider"]] == pytest.approx(FAKECAP, abs=1e-9)
    assert written["data"]["num_images"] == 126
    assert written["settings"]["bleu"] == {"length": 1216, "reference_length": 1228}
    assert written["details"]["bleu"]["matches"] == [719, 308, 134, 58]
    assert written.get("meteor", FAKECAP_METEOR) == pytest.approx(FAKECAP_METEOR, abs=1e-6)


@pytest.mark.parametrize("called", [["7", "8"], ["one", "b_0012"], ["a/one", "12"], ["7", "b_0012"]])
def test_csv_files_are_known_by_id_file_or_number_and_may_have_splits(tmp_path: Path, called: list[str]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("image,caption,id,split\na/one.jpg,x,7,val\nb_0012.jpg,y,8,test\na/one.jpg,z,7,val\n")
    first, second = called
    assert read_references(path, asked=called).captions == {first: ["x", "z"], second: ["y"]}
    assert read_references(path, split="val", asked=called).captions == {first: ["x", "z"]}


def test_mistakes_in_csv_references(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("image,caption\na/one.jpg,x\nb/one.jpg,y\n")
    with pytest.raises(UserError, match=r"rows\.csv: the id one stands for several images"):
        read_references(path)
    path.write_text("image,caption\none.jpg,x\n")
    with pytest.raises(UserError, match=r"split=val: references=.*rows\.csv has no splits"):
        read_references(path, split="val")


def test_numbers_and_texts_are_the_same_ids(folder: Path) -> None:
    as_texts = [{"image_id": image_id, "caption": caption} for image_id, caption in CAPTIONS.items()]
    assert evaluated(folder, predictions=as_texts)["cider"] == evaluated(folder)["cider"]


def test_images_without_a_prediction_are_listed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    two = {key: CAPTIONS[key] for key in ("1", "3")}
    written = evaluated(folder, predictions=results(two))
    assert written["data"]["without_prediction"] == ["2"]
    assert written["data"]["num_images"] == 2
    assert written["rouge_l"] == pytest.approx(score_captions(two, REFERENCES)["rouge_l"])
    assert "1 images have no prediction and are left out: 2" in caplog.text
    all_of_them = evaluated(folder, predictions=results(two), only_predicted=False)
    assert all_of_them["data"]["num_images"] == 3
    assert all_of_them["rouge_l"] == pytest.approx(written["rouge_l"] * 2 / 3)
    assert all_of_them["per_image"]["2"]["caption"] == ""
    assert "scored as empty: 2" in caplog.text


def test_the_report_names_only_some_of_many(folder: Path) -> None:
    more = REFERENCES | {str(number): ["a circle"] for number in range(100, 200)}
    written = evaluated(folder, references=coco(more))
    assert len(written["data"]["without_prediction"]) == 100
    assert "without_prediction: `100: 100, 101, 102, 103, 104 ...`" in (folder / "out" / "results.md").read_text()


def test_empty_captions_score_nothing_and_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = evaluated(folder, predictions=results(CAPTIONS | {"2": " ... "}))
    assert written["data"]["without_words"] == ["2"]
    assert written["per_image"]["2"]["rouge_l"] == written["per_image"]["2"]["cider"] == 0
    assert "1 captions have no words: 2" in caplog.text


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (
            [*results(CAPTIONS), *results({"2": "again"})],
            r"1 image\(s\) with several captions, image 2 with 2; expected one each",
        ),
        ([{"image_id": 1, "caption": "a"}, {"image_id": "1", "caption": "b"}], r"1 image\(s\) with several captions"),
        ([{"image_id": 1, "caption": 5}], "the caption of image 1 is 5; expected a text"),
        ([{"image_id": 1, "caption": None}], "the caption of image 1 is None"),
        ([{"image_id": 1.5, "caption": "a"}], r"image_id 1\.5: expected a whole number or a text"),
        ([{"image_id": True, "caption": "a"}], "image_id True"),
        ([{"id": 1, "caption": "a"}], "expected a list of {image_id, caption}"),
        (["a"], "expected a list of {image_id, caption}"),
        (5, "expected a list of {image_id, caption}"),
        ([], "no captions in it"),
        ({}, "no captions in it"),
        ({"1": ["a"]}, "the caption of image 1 is"),
        (results(CAPTIONS | {"9": "x"}), "1 of 4 images have no references: 9; ids of the references are like 1, 2"),
    ],
)
def test_predictions_that_cannot_be_scored(predictions: Any, message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        evaluated(folder, predictions=predictions)
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ({"annotations": [{"image_id": 1}]}, "expected COCO's json"),
        ({"annotations": []}, "no captions in it"),
        ({"images": [{"filename": "a"}]}, "an image lacks sentences, split"),
        ([1], "expected COCO's json"),
        ({"1": 5}, "expected COCO's json"),
        ({"1": {"caption": "a"}}, "expected COCO's json .* image 1 has {'caption': 'a'}"),
        ({"1": [None]}, "the caption of image 1 is None"),
        ({"1": []}, "no captions in it"),
    ],
)
def test_references_that_are_none(references: Any, message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        evaluated(folder, references=references)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"caption": "a cat"}, {"caption": "a dog"}], r"1 image\(s\) with several captions, image 1 with 2"),
        ([{"text": "a cat", "probability": 1.0}], "expected captions, as --config-name caption saves them"),
        ({"caption": "a cat"}, "expected captions, as --config-name caption saves them"),
        ([], "no captions in it"),
    ],
)
def test_folders_that_hold_no_caption_for_each_image(rows: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "1_predictions.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match=message):
        read_predictions(tmp_path)


def test_captions_of_two_captioners_are_not_mixed(tmp_path: Path) -> None:
    for captioner in ("best", "last"):
        (tmp_path / captioner).mkdir()
        (tmp_path / captioner / "1_predictions.json").write_text(json.dumps([{"caption": f"a cat, says {captioner}"}]))
    assert read_predictions(tmp_path / "last") == {"1": "a cat, says last"}
    with pytest.raises(UserError, match=r"image 1 with 2; expected one each, of one captioner"):
        read_predictions(tmp_path)


def test_missing_images_are_named(folder: Path) -> None:
    (folder / "images" / "000000000002.png").unlink()
    with pytest.raises(UserError, match=r"image_folder=.*: 1 images are missing: 000000000002\.png"):
        evaluated(folder, image_folder=str(folder / "images"))
    with pytest.raises(UserError, match="image_folder=nowhere: no such folder"):
        evaluated(folder, image_folder="nowhere")


def test_images_that_nothing_looks_at_are_mentioned(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = evaluated(folder, image_folder=str(folder / "images"), model=ModelChoice(model_name="absent.pt"))
    assert "no metric looked at the images" in caplog.text
    assert written["data"]["model"] == {}


def test_finecapeval_beside_other_metrics(folder: Path) -> None:
    (folder / "fine.csv").write_text(FINE, encoding="utf-8")
    metrics = {"finecapeval": FineCapEval(path=str(folder / "fine.csv"))}
    written = evaluated(folder, caption_metric=metrics)
    assert written["per_image"]["3"]["finecapeval_overall_cider"] is None
    assert written["finecapeval_object"] == pytest.approx(((1 + 0) / 2 + 1) / 2)
    assert written["per_image"]["3"]["finecapeval_object"] is None
    two = {key: CAPTIONS[key] for key in ("1", "2")}
    fine = str(folder / "fine.csv")
    (folder / "two.json").write_text(json.dumps(two))
    given = {"predictions": str(folder / "two.json"), "output_path": folder / "out", "model": ModelChoice()}
    caption_evaluate(**given, references=None, finecapeval=fine, caption_metric=metrics | language_metrics())
    written = json.loads((folder / "out" / "metrics.json").read_text())
    assert (written["data"]["num_references"], written["data"]["references"]) == (2, fine)
    of_people = {"1": ["A red square."], "2": ["Circles."]}
    expected = score_captions(two, of_people)
    for name in ("bleu_1", "bleu_4", "rouge_l", "cider"):
        assert written[f"finecapeval_overall_{name}"] == pytest.approx(expected[name])
    assert written["rouge_l"] == written["finecapeval_overall_rouge_l"]
    with pytest.raises(UserError, match="references: expected"):  # it has no splits
        caption_evaluate(**given, references=None, finecapeval=fine, caption_metric=metrics, split="test")


def test_a_metric_that_fails_does_not_take_the_others_along(folder: Path) -> None:
    def fails(captions: CaptionSet) -> Result:
        return Result(data={}, metrics={}, left_out="CalledProcessError: java ended with 1")

    written = evaluated(folder, caption_metric=language_metrics() | {"meteor": fails})
    assert written["status"] == 1
    assert written["left_out"]["meteor"] == "CalledProcessError: java ended with 1"
    assert written["cider"] > 0


@pytest.mark.shared
def test_a_coco_file_as_it_is(tmp_path: Path) -> None:
    """Karpathy's layout of the same images gives the same numbers; captions of people are better than others'."""
    data = SHARED / "data" / "coco_captions_subset"
    in_coco, in_karpathy = (
        read_references(data / f"{name}.json") for name in ("captions_subset", "dataset_coco_subset")
    )
    assert in_coco.captions.keys() == in_karpathy.captions.keys()
    first = {image_id: captions[0] for image_id, captions in in_coco.captions.items()}
    rest = {image_id: captions[1:] for image_id, captions in in_coco.captions.items()}
    ids = list(first)
    wrong = dict(zip(ids, [first[image_id] for image_id in ids[1:] + ids[:1]], strict=True))
    assert score_captions(first, rest)["cider"] > 5 * score_captions(wrong, rest)["cider"]
    assert len(find_images(in_coco, ids[:5], data / "images")) == 5
