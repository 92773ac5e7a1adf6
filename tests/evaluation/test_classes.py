"""Zero-shot and linear probe: by hand, by a loop, by another optimiser; folders and zip archives."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import call
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from PIL import Image
from scipy.optimize import minimize

from evaluation.clip.linear_probe import LinearProbe, choose_penalty, fit
from evaluation.clip.zero_shot import (
    ZeroShotClassification,
    accuracies,
    class_weights,
    confusion_matrix,
    find_templates,
)
from evaluation.subject import unit_rows
from extraction.preprocess import Preprocess
from models.clip.model import CLIP
from models.clip.weights import load_model
from pairs.class_images import class_images
from tests.helpers.configs import composed
from tests.helpers.shared_data import SHARED
from tests.helpers.stand_in import mean_colour, random_features, stand_in
from tests.helpers.tiny_clip import write_tiny_checkpoint
from utils.errors import UserError

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "sky_blue": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path):
    """Four pictures of each of three colours, in two splits, also as a zip archive."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, colour in COLOURS.items():
            (tmp_path / split / name).mkdir(parents=True)
            for k in range(4):
                shade = tuple(int(level) for level in np.clip(np.array(colour) + rng.integers(-40, 41, 3), 0, 255))
                Image.new("RGB", (8, 8), shade).save(tmp_path / split / name / f"{k}.png")
    with zipfile.ZipFile(tmp_path / "colours.zip", "w") as archive:
        for path in tmp_path.glob("*/*/*.png"):
            archive.write(path, path.relative_to(tmp_path).as_posix())
    return tmp_path


def colour_of(text: str) -> np.ndarray:
    return next(np.array(COLOURS[name]) / 255 for name in COLOURS if name.replace("_", " ") in text)


@pytest.mark.parametrize("path", ["test", "colours.zip/test"])
def test_zero_shot_of_a_model_that_sees_colours(folder, path):
    evaluation = ZeroShotClassification(class_images_path=str(folder / path), templates="photo")
    result = evaluation(stand_in(picture=mean_colour, text=colour_of))
    assert result.metrics == {"top1_percent": 100, "top5_percent": 100, "mean_class_accuracy_percent": 100}
    assert result.details["top1_percent_of_class"] == {"green": 100, "red": 100, "sky blue": 100}
    assert result.details["confusion"] == (4 * np.eye(3, dtype=int)).tolist()
    assert result.data["num_images"] == 12


def test_a_collapsed_model_scores_nothing(folder):
    evaluation = ZeroShotClassification(class_images_path=str(folder / "test"))
    assert evaluation(stand_in()).metrics["top1_percent"] == 0


def test_accuracies_by_hand():
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [1, 1, 1], [0, 1, 5]])
    labels = np.array([0, 1, 0, 2])
    found = accuracies(scores, labels)
    assert found["top1_percent"] == 50
    assert found["mean_class_accuracy_percent"] == pytest.approx(100 * (0.5 + 0 + 1) / 3)
    assert confusion_matrix(scores, labels).tolist() == [[2, 0, 0], [1, 0, 0], [0, 0, 1]]


def test_top5_equals_a_loop():
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal((200, 30)), rng.integers(0, 30, 200)
    best = [sorted(range(30), key=lambda k, row=row: -row[k])[:5] for row in scores]
    right = np.mean([label in top for top, label in zip(best, labels, strict=True)])
    assert accuracies(scores, labels)["top5_percent"] == pytest.approx(100 * right)


def test_ensemble_is_the_normalised_mean_of_normalised_features():
    templates = ["a {}", "the big {}", "{}"]
    weights = class_weights(stand_in(text=lambda text: 3 * random_features(text)), ["cat", "dog"], templates)
    for row, name in zip(weights, ["cat", "dog"], strict=True):
        each = [random_features(template.format(name)) for template in templates]
        mean = np.mean([feature / np.linalg.norm(feature) for feature in each], axis=0)
        assert row == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)


def test_templates(tmp_path):
    assert find_templates("none") == ["{}"]
    assert find_templates("photo") == ["a photo of a {}"]
    (tmp_path / "mine.txt").write_text("a {}\n\nmany {}s\n")
    assert find_templates(str(tmp_path / "mine.txt")) == ["a {}", "many {}s"]
    assert find_templates(["one {}"]) == ["one {}"]
    with pytest.raises(UserError, match=r"did you mean photo\?"):
        find_templates("foto")
    with pytest.raises(UserError, match=r"expected one \{\}"):
        find_templates(["no place"])


@pytest.mark.shared
def test_the_80_templates_are_openais():
    given = json.loads((SHARED / "data" / "openai__CLIP" / "imagenet_templates_80.json").read_text())
    assert find_templates("imagenet80") == given


def test_folders_called_by_numbers_are_sorted_as_numbers(tmp_path):
    for k in (0, 1, 2, 10):
        (tmp_path / str(k)).mkdir()
        Image.new("RGB", (2, 2)).save(tmp_path / str(k) / "a.png")
    (tmp_path / "names.txt").write_text("zero\none\ntwo\nten\n")
    found = class_images(str(tmp_path), key="class_images_path", class_names=str(tmp_path / "names.txt"))
    assert found.class_names == ["zero", "one", "two", "ten"]
    assert found.labels.tolist() == [0, 1, 3, 2]  # in the order of the file names: 0, 1, 10, 2
    with pytest.raises(UserError, match="3 names for the 4 folders"):
        class_images(str(tmp_path), key="class_images_path", class_names=["a", "b", "c"])


def test_imagenets_names_by_the_folders_numbers(tmp_path):
    """ImageNet-V2 has its classes in folders 0 to 999."""
    numbers = {"v2": range(1000), "part": (7, 10, 999), "other": (7, 1000)}
    with zipfile.ZipFile(tmp_path / "v2.zip", "w") as archive:
        for name, chosen in numbers.items():
            for number in chosen:
                archive.writestr(f"{name}/{number}/a.jpeg", b"")
    for name in ("v2", "part"):
        found = class_images(str(tmp_path / f"v2.zip/{name}"), key="", class_names="imagenet")
        assert found.class_names == [IMAGENET_CLASSNAMES[number] for number in numbers[name]]
    with pytest.raises(UserError, match="1000 names for the 2 folders"):
        class_images(str(tmp_path / "v2.zip/other"), key="", class_names="imagenet")


def zero_shot_as_in_openais_notebook(model: CLIP, folder: Path, numbers: list[int]) -> dict[str, float]:
    """Prompt_Engineering_for_ImageNet.ipynb, a class and an image after the other."""
    weights, places = [], []
    for number in numbers:
        texts = [template.replace("{}", IMAGENET_CLASSNAMES[number]) for template in find_templates("imagenet80")]
        embeddings = model.encode_text(model.tokenize(texts)).double()
        mean = (embeddings / embeddings.norm(dim=-1, keepdim=True)).mean(dim=0)
        weights.append(mean / mean.norm())
    prepare = Preprocess.of(model.visual)
    for label, number in enumerate(numbers):
        for file in sorted((folder / str(number)).iterdir()):
            features = model.encode_image(prepare(Image.open(file)).unsqueeze(0)).double()[0]
            logits = [100 * float(features / features.norm() @ weight) for weight in weights]
            places.append(sorted(range(len(numbers)), key=lambda each: -round(logits[each], 6)).index(label))
    return {f"top{k}_percent": 100 * sum(place < k for place in places) / len(places) for k in (1, 5)}


def test_the_imagenet_protocol(tmp_path):
    """Names and 80 templates of openai/CLIP on a small copy of ImageNet-V2's layout, two classes called the same."""
    numbers = [0, 2, 10, 100, 657, 744, 999]
    rng = np.random.default_rng(0)
    for number in numbers:
        (tmp_path / f"v2/{number}").mkdir(parents=True)
        for k in range(4):
            tint = rng.integers(0, 256, 3) + rng.integers(0, 60, (40, 48, 3))
            Image.fromarray(tint.clip(0, 255).astype(np.uint8)).save(tmp_path / f"v2/{number}/{k}.png")
    checkpoint = write_tiny_checkpoint(tmp_path / "small.pt")
    given = [f"model_name={checkpoint}", f"class_images_path={tmp_path}/v2", f"output_path={tmp_path}"]
    protocol = ["evaluation=zero_shot", "class_names=imagenet", "templates=imagenet80", "device=cpu"]
    assert call(composed("evaluate", *given, *protocol).job, _convert_="all") == 0
    found = json.loads((tmp_path / "small/results.json").read_text())["evaluations"]["zero_shot"]
    assert (found["data"]["num_images"], found["data"]["num_templates"]) == (28, 80)
    names = ["tench", "great white shark", "brambling", "black swan", "missile (4)", "missile (5)", "toilet paper"]
    assert list(found["details"]["top1_percent_of_class"]) == names
    with torch.no_grad():
        expected = zero_shot_as_in_openais_notebook(load_model(checkpoint), tmp_path / "v2", numbers)
    assert 0 < expected["top1_percent"] < expected["top5_percent"] < 100
    assert {key: found["metrics"][key] for key in expected} == pytest.approx(expected)


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(UserError, match="class_images_path: expected a folder"):
        ZeroShotClassification(class_images_path=None)
    with pytest.raises(UserError, match="folder of images for each class"):
        ZeroShotClassification(class_images_path=str(tmp_path))


def test_fit_minimises_what_it_says():
    """Against scipy's optimiser in float64 on the same objective."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 120)
    features = unit_rows(rng.standard_normal((120, 5)) + np.eye(3, 5)[labels] * 2)
    weight, bias = fit(features.astype(np.float32), labels, penalty=1e-3)

    def objective(flat: np.ndarray) -> float:
        logits = features @ flat[:15].reshape(3, 5).T + flat[15:]
        log_sums = np.log(np.exp(logits).sum(axis=1))
        return float((log_sums - logits[np.arange(120), labels]).mean() + 0.5e-3 * (flat[:15] ** 2).sum())

    best = minimize(objective, np.zeros(18), method="BFGS", options={"gtol": 1e-6})
    assert objective(np.concatenate([weight.ravel(), bias])) == pytest.approx(best.fun, abs=1e-5)
    assert weight == pytest.approx(best.x[:15].reshape(3, 5), abs=0.02)


def test_fit_goes_on_until_it_is_there():
    """Directions of very different length need hundreds of iterations; twenty, PyTorch's default, are far away."""
    rng = np.random.default_rng(0)
    features = (rng.standard_normal((60, 12)) * np.logspace(0, -3, 12)).astype(np.float32)
    labels = rng.integers(0, 3, 60)
    weight, bias = fit(features, labels, penalty=1e-9)
    x, y = torch.from_numpy(features).double(), torch.from_numpy(labels)
    w, b = (torch.from_numpy(each).double().requires_grad_() for each in (weight, bias))
    (torch.nn.functional.cross_entropy(x @ w.T + b, y) + 0.5e-9 * w.square().sum()).backward()
    assert w.grad is not None
    assert w.grad.abs().max() < 2e-5


def test_penalty_is_chosen_on_what_was_not_fitted():
    """Of labels by chance, in more directions than rows, whatever was fitted could be told without a mistake."""
    rng = np.random.default_rng(0)
    features = unit_rows(rng.standard_normal((100, 200))).astype(np.float32)
    penalty, tried = choose_penalty(features, rng.integers(0, 4, 100), seed=0)
    assert max(tried.values()) < 60
    assert tried[f"{penalty:.1e}"] == max(tried.values())


@pytest.mark.parametrize(("right", "best"), [({}, 1e-1), ({1e-3: 1, 1e-4: 1, 1e-6: 1}, 1e-3)])
def test_of_equally_good_penalties_the_largest_is_taken(monkeypatch, right, best):
    """A stand-in for the fit: classes told by the sign of the only feature, or all for the first."""

    def fitted(features, labels, *, penalty, **_):
        knows = any(penalty == pytest.approx(each) for each in right)
        return np.array([[-1.0], [1.0]], np.float32) * knows, np.zeros(2, np.float32)

    monkeypatch.setattr("evaluation.clip.linear_probe.fit", fitted)
    features = np.tile(np.array([[1.0], [-1.0]], np.float32), (20, 1))
    penalty, _ = choose_penalty(features, (features[:, 0] > 0).astype(np.int64), seed=0)
    assert penalty == pytest.approx(best)


def test_linear_probe_reads_colours(folder):
    evaluation = LinearProbe(
        probe_train_path=str(folder / "colours.zip" / "train"), class_images_path=str(folder / "test")
    )
    assert evaluation(stand_in(picture=mean_colour)).metrics["top1_percent"] == 100


def test_linear_probe_wants_the_same_classes(folder):
    (folder / "test" / "red").rename(folder / "test" / "crimson")
    with pytest.raises(UserError, match="differ in their classes"):
        LinearProbe(probe_train_path=str(folder / "train"), class_images_path=str(folder / "test"))


@pytest.mark.shared
def test_cifar_is_read_from_its_zip():
    found = class_images(str(SHARED / "data" / "cifar10" / "cifar10.zip" / "test"), key="class_images_path")
    assert len(found.labels) == 10_000
    assert np.bincount(found.labels).tolist() == [1000] * 10
    assert found.class_names[:3] == ["airplane", "automobile", "bird"]
    assert found.images[0]().size == (32, 32)
