"""The module behind `import clip` (tests/test_import_clip.py) and the feature pipeline in notebooks."""

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models import clip
from models.clip import ExtractCLIP
from models.clip.family import folder_name
from tests.helpers.shared_data import ROOT
from utils.errors import UserError


def test_names_in_openais_order() -> None:
    assert clip.available_models() == [
        "RN50",
        "RN101",
        "RN50x4",
        "RN50x16",
        "RN50x64",
        "ViT-B/32",
        "ViT-B/16",
        "ViT-L/14",
        "ViT-L/14@336px",
    ]


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (clip.available_models, {}),
        (
            clip.load,
            {
                "name": inspect.Parameter.empty,
                "device": "cuda" if torch.cuda.is_available() else "cpu",
                "jit": False,
                "download_root": None,
            },
        ),
        (clip.tokenize, {"texts": inspect.Parameter.empty, "context_length": 77, "truncate": False}),
    ],
)
def test_signatures_are_openais(function, parameters: dict[str, object]) -> None:
    found = inspect.signature(function).parameters
    assert [(name, p.default) for name, p in found.items()] == list(parameters.items())
    assert {p.kind for p in found.values()} <= {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_the_example_of_openais_readme(tiny: Path) -> None:
    model, preprocess = clip.load(str(tiny), device="cpu")
    with Image.open(ROOT / "sample" / "coffee.jpg") as picture:
        image = preprocess(picture).unsqueeze(0).to("cpu")
    text = clip.tokenize(["a diagram", "a dog", "a cat"]).to("cpu")
    with torch.no_grad():
        assert model.encode_image(image).shape == (1, 16)
        assert model.encode_text(text).shape == (3, 16)
        logits_per_image, logits_per_text = model(image, text)
        probabilities = logits_per_image.softmax(dim=-1).cpu().numpy()
    assert torch.equal(logits_per_text, logits_per_image.T)
    assert probabilities.shape == (1, 3)
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_attributes_that_notebooks_read(tiny: Path, jit: bool) -> None:
    model, _ = clip.load(str(tiny), "cpu", jit)
    sizes = (model.visual.input_resolution, model.context_length, model.vocab_size)
    assert sizes == (32, 77, 49408)
    assert model.dtype == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())  # to be fine-tuned


def test_weights_survive_saving_over_the_file_they_came_from(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    path.write_bytes(tiny.read_bytes())
    model, _ = clip.load(str(path), device="cpu")
    torch.save(model.state_dict(), path)
    again, _ = clip.load(str(path), device="cpu")
    wanted = clip.load(str(tiny), device="cpu")[0].state_dict()
    assert again.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in again.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0: expected a whole number"),
        ({"preprocess": "exakt"}, r"preprocess=exakt: did you mean exact\?"),
        ({"on_error": "ignore"}, "on_error=ignore.*skip, partial, raise"),
        ({"normalize": "no"}, "normalize=no: expected true or false"),
        ({"show_pred": "off"}, "show_pred=off: expected true or false"),
        ({"device": "gpu0"}, "device=gpu0: expected a PyTorch device"),
        ({"extraction_fps": 1, "extraction_total": 5}, "at most one of"),
        ({"show_pred": True, "pred_texts": []}, r"pred_texts=\[\]"),
        ({"activation": "relu"}, "activation=relu.*quick_gelu, gelu"),
        ({"grid_dtype": "half"}, "grid_dtype=half: .*float32, float16"),
    ],
)
def test_wrong_options_are_named(tiny: Path, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        clip.ExtractCLIP(**({"model_name": tiny, "device": "cpu"} | options))


def test_extract_in_a_notebook(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extractor = clip.ExtractCLIP(
        model_name=str(tiny), device="cpu", extraction_total=3, normalize=True, show_pred=True, pred_texts="a cat"
    )
    features = extractor.extract(ROOT / "sample" / "v_GGSY1Qvo990.mp4")
    assert list(features) == ["clip", "fps", "timestamps_ms", "source_timestamps_ms"]
    assert (features["clip"].shape, features["clip"].dtype) == ((3, 16), np.float32)
    assert (features["fps"].shape, features["timestamps_ms"].shape) == ((), (3,))
    np.testing.assert_allclose(np.linalg.norm(features["clip"], axis=1), 1, rtol=1e-5)
    assert capsys.readouterr().out.count("| 1.000 | a cat\n") == 3


def test_grids_in_half_precision(tiny: Path) -> None:
    photo, both = ROOT / "sample" / "cat.jpg", ["global", "grid"]
    whole, half = (
        clip.ExtractCLIP(model_name=str(tiny), device="cpu", features=both, grid_dtype=dtype)  # pyright: ignore
        for dtype in ("float32", "float16")
    )
    expected, found = whole.extract_image(photo), half.extract_image(photo)
    assert (found["clip"].dtype, found["grid"].dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(found["grid"], expected["grid"].astype(np.float16))
    np.testing.assert_array_equal(found["clip"], expected["clip"])
    assert whole.images.settings["grid"] == {"pool": 1}
    assert half.images.settings["grid"] == {"pool": 1, "dtype": "float16"}


def test_folders_are_named_after_the_model(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_name("ViT-L/14@336px") == "ViT-L_14@336px"
    assert folder_name(str(tiny)) == "tiny"
    assert folder_name("custom") == "custom"
    (tmp_path / "clip-v1.5").mkdir()
    assert folder_name(f"{tmp_path}/clip-v1.5/") == "clip-v1.5"
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert folder_name("~/tiny.pt") == "tiny"


def test_the_embedded_model_names_the_cat() -> None:
    """Offline, on the sample whose first four seconds show a cat (sample/README.md)."""
    kinds = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    extractor = ExtractCLIP(model_name="tiny", extraction_fps=1, device="cpu", offline=True)
    features = extractor.extract(ROOT / "sample" / "v_GGSY1Qvo990.mp4")["clip"]
    model, _ = clip.load("tiny", device="cpu")
    texts = model.encode_text(clip.tokenize([f"a photo of a {kind}" for kind in kinds])).detach().numpy()
    best = (features @ (texts / np.linalg.norm(texts, axis=1, keepdims=True)).T).argmax(axis=1)
    assert [kinds[i] for i in best[:4]] == ["cat"] * 4
