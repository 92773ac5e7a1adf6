"""The one way to a model: the same words in every job, and facts that tell one model from another."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from models import clip
from models.clip.hub_towers import DistilBertTower
from models.clip.model import CLIP
from models.load import ModelChoice, extractor, load
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_clip import TINY_RESNET, tiny_model, write_tiny_checkpoint
from tests.helpers.tiny_open_clip import VIT, write_open_clip_model
from training.contrastive.task import export
from utils.errors import UserError

PHOTO = ROOT / "sample" / "cat.jpg"


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "main.py"), *arguments, "device=cpu"]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done


def write_clip(folder: Path, seed: int) -> list[str]:
    return [f"model_name={write_tiny_checkpoint(folder / 'model.pt', seed)}"]


def write_clip_folder(folder: Path, seed: int) -> list[str]:
    """As Hugging Face has them: the weights stay, what is read beside them changes."""
    (folder / "model").mkdir(exist_ok=True)
    if not seed:
        write_tiny_checkpoint(folder / "model" / "pytorch_model.bin")
    act = ("quick_gelu", "gelu")[seed]
    content = {"model_type": "clip", "text_config": {"hidden_act": act}, "vision_config": {"hidden_act": act}}
    (folder / "model" / "config.json").write_text(json.dumps(content))
    return [f"model_name={folder / 'model'}"]


def write_open_clip(folder: Path, seed: int) -> list[str]:
    if not (folder / "model").exists():
        write_open_clip_model(folder / "model")
    if seed:
        weights = folder / "model" / "open_clip_pytorch_model.bin"
        state = torch.load(weights, weights_only=True)
        torch.save(state | {"logit_scale": state["logit_scale"] + 1, "visual.proj": -state["visual.proj"]}, weights)
    return ["feature_type=open_clip", f"model_name=local-dir:{folder / 'model'}"]


def write_open_clip_config(folder: Path, seed: int) -> list[str]:
    path = folder / "model"
    if not path.exists():
        write_open_clip_model(path)
    if seed:
        config = json.loads((path / "open_clip_config.json").read_text())
        config["preprocess_cfg"]["mean"] = [0.4, 0.4, 0.4]
        (path / "open_clip_config.json").write_text(json.dumps(config))
    return ["feature_type=open_clip", f"model_name=local-dir:{path}"]


@pytest.mark.parametrize("write", [write_clip, write_clip_folder, write_open_clip, write_open_clip_config])
def test_a_model_that_changed_under_its_name_is_never_skipped(
    write: Callable[[Path, int], list[str]], tmp_path: Path
) -> None:
    inputs = (f"image_paths={PHOTO}", "on_extraction=save_numpy")
    assert "1 done" in run(*write(tmp_path, 0), *inputs, cwd=tmp_path).stderr
    assert "1 skipped" in run(*write(tmp_path, 0), *inputs, cwd=tmp_path).stderr
    changed = run(*write(tmp_path, 1), *inputs, "overwrite=true", cwd=tmp_path).stderr
    assert "1 done" in changed
    assert "weights_sha256" in changed


def test_weights_of_a_hub_are_known_by_what_lies_in_its_cache(tmp_path: Path) -> None:
    """The cache as huggingface_hub keeps it, filled by hand: no network."""
    snapshot = tmp_path / "models--somebody--small" / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.parent.mkdir(parents=True)
    write_open_clip_model(snapshot)
    (tmp_path / "models--somebody--small" / "refs").mkdir()
    (tmp_path / "models--somebody--small" / "refs" / "main").write_text(snapshot.name)

    def facts() -> dict[str, Any]:
        choice = ModelChoice(
            feature_type="open_clip", model_name="hf-hub:somebody/small", device="cpu", download_root=tmp_path
        )
        return dict(load(choice).settings)

    before = facts()
    weights = snapshot / "open_clip_pytorch_model.bin"
    state = torch.load(weights, weights_only=True)
    torch.save(state | {"visual.proj": -state["visual.proj"]}, weights)
    assert len(before["weights_sha256"]) == 64
    assert facts()["weights_sha256"] != before["weights_sha256"]
    assert {key: value for key, value in facts().items() if key != "weights_sha256"} == {
        key: value for key, value in before.items() if key != "weights_sha256"
    }


@pytest.mark.parametrize("weights", [True, False])
def test_a_siglip_folder_is_called_by_its_name(weights: bool, tmp_path: Path) -> None:
    content = {"model_type": "siglip", "vision_config": {"hidden_act": "gelu_pytorch_tanh"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    if weights:
        state = {"vision_model.embeddings.patch_embedding.weight": torch.zeros(4, 3, 2, 2)}
        torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"SigLIP model .*feature_type=open_clip.* pretrained=") as caught:
        clip.load(str(tmp_path), device="cpu")
    assert "activation" not in str(caught.value)


def test_a_model_alone_needs_no_decoder_and_no_configuration() -> None:
    program = (
        "import sys; from models import clip; clip.load('tiny', device='cpu')\n"
        "print([name for name in ('av', 'ffmpeg', 'imageio_ffmpeg', 'hydra', 'omegaconf', 'torchvision') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extraction_fbs": 1}, r"extraction_fbs: no such option; did you mean extraction_fps\?"),
        ({"pretrained": "openai"}, "pretrained: no such option"),
        ({"family": {}}, "family: no such option"),
        ({"resolution": 0}, "resolution=0: expected a whole number"),
        ({"offline": "no"}, "offline=no: expected true or false"),
        ({"precision": "int4"}, "precision=int4"),
    ],
)
def test_keywords_are_looked_at_before_anything_is_loaded(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        clip.ExtractCLIP(model_name="/no/such/model", device="cpu", **options)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"feature_type": "open_clap"}, r"feature_type=open_clap: did you mean open_clip\?"),
        ({"feature_type": "captioner"}, "feature_type=captioner: .*clip, open_clip"),
        ({"model_name": None}, "model_name: expected a name"),
        ({"model_name": "ViT-B/23"}, r"did you mean ViT-B/32\?"),
        ({"model_name": "tiny", "family": {"pretrained": "x"}}, "pretrained=x: feature_type=clip has no such option"),
    ],
)
def test_wrong_choices_are_named(choice: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(ModelChoice(device="cpu", **choice))


def test_a_precision_that_cannot_run_is_told_before_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extraction.precision._computes", lambda dtype: False)
    with pytest.raises(UserError, match="precision=fp16 does not run on the CPU"):
        load(ModelChoice(model_name="/no/such/model", device="cpu", precision="fp16"))


def test_facts_of_a_loaded_model(tiny: Path) -> None:
    found = load(ModelChoice(model_name=str(tiny), device="cpu"))
    assert (found.folder, found.precision, found.weights) == ("clip/tiny", "fp32", str(tiny))
    assert {"feature_type", "model_name", "weights_sha256", "activation"} == set(found.settings)


@pytest.fixture(scope="module")
def distilbert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "width": 32,
        "layers": 1,
        "heads": 2,
        "hidden_width": 64,
        "positions": 32,
        "context_length": 16,
    }
    text = DistilBertTower(**sizes, embed_dim=16)
    text.learn_vocabulary(["a cat", "two dogs play on a beach"])
    path = tmp_path_factory.mktemp("distilbert") / "model.pt"
    export(CLIP(tiny_model().visual, text), path)
    return path


def test_texts_of_different_length_in_one_batch(distilbert: Path) -> None:
    texts = ["a cat", "two dogs play on a beach", "a"]
    together = extractor("clip", model_name=str(distilbert), device="cpu").extract_texts(texts)["clip"]
    for text, row in zip(texts, together, strict=True):
        alone = extractor("clip", model_name=str(distilbert), device="cpu").extract_texts([text])["clip"][0]
        assert row == pytest.approx(alone, abs=1e-5)


def test_openais_tokens_on_another_model_name_the_way_out(distilbert: Path) -> None:
    model, _ = clip.load(str(distilbert), device="cpu")
    with pytest.raises(UserError, match=r"use model\.tokenize\(texts\)"):
        model.encode_text(clip.tokenize(["a cat"]))
    assert model.encode_text(model.tokenize(["a cat"])).shape == (1, 16)


@pytest.fixture(scope="module")
def open_clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_open_clip_model(tmp_path_factory.mktemp("open_clip") / "small", VIT)


def test_the_second_family_is_searched_with(open_clip_model: Path, tmp_path: Path) -> None:
    family = ("feature_type=open_clip", f"model_name=local-dir:{open_clip_model}")
    done = run("--config-name", "search", "query=a cat", f"image_paths={ROOT / 'sample'}", *family, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "output" / "search" / "a_cat.json").read_text())
    assert found["model"]["feature_type"] == "open_clip"
    assert len(found["matches"]) == 4


def test_the_second_family_is_evaluated(open_clip_model: Path, tmp_path: Path) -> None:
    family = ("feature_type=open_clip", f"model_name=local-dir:{open_clip_model}")
    done = run("--config-name", "evaluate", "num_scenes=8", "evaluation=retrieval", *family, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "output" / "evaluation" / "small" / "results.json").read_text())
    assert len(results["model"]["weights_sha256"]) == 64


def test_the_second_family_judges_captions(open_clip_model: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps({"1": "a cat"}))
    (tmp_path / "references.json").write_text(json.dumps({"1": ["a cat sits"]}))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(PHOTO.read_bytes())
    files = ("predictions=captions.json", "references=references.json", "image_folder=images", "caption_metric=clip_s")
    family = ("feature_type=open_clip", f"model_name=local-dir:{open_clip_model}")
    done = run("--config-name", "caption_evaluate", *files, *family, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "output" / "caption_evaluation" / "metrics.json").read_text())
    assert written["data"]["model"]["feature_type"] == "open_clip"


def test_the_second_family_scores_captions(open_clip_model: Path, tmp_path: Path) -> None:
    """The embedded captioner keeps the model its features come from."""
    family = ("feature_type=open_clip", f"score_model=local-dir:{open_clip_model}")
    done = run("--config-name", "caption", f"image_paths={PHOTO}", *family, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own = run("--config-name", "caption", f"image_paths={PHOTO}", cwd=tmp_path)
    said, scored = done.stdout.split("(CLIP-S"), own.stdout.split("(CLIP-S")
    assert said[0] == scored[0]
    assert said[1] != scored[1]


def test_another_resolution_in_an_evaluation(tmp_path: Path) -> None:
    weights = tmp_path / "resnet.pt"
    torch.save(tiny_model(architecture=TINY_RESNET).state_dict(), weights)
    model = (f"model_name={weights}", "resolution=96", "num_scenes=4", "evaluation=geometry")
    done = run("--config-name", "evaluate", *model, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "output" / "evaluation" / "resnet" / "results.json").read_text())
    assert results["model"]["resolution_px"] == 96
