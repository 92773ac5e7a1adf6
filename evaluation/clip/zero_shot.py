"""Zero-shot classification: the class whose sentences lie nearest to the picture.

Radford et al. 2021, section 3.1, with the template ensembles of openai/CLIP's notebook. The protocol on ImageNet is
`class_names=imagenet templates=imagenet80`; two of its names stand for two classes each.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Float, Int64
from matplotlib.axes import Axes

from evaluation.result import Result
from evaluation.subject import Subject, unit_rows
from pairs.class_images import class_images, read_lines
from utils.errors import UserError

TEMPLATES = {"none": ["{}"], "photo": ["a photo of a {}"]}
TIE = 1e-6  # scores nearer than this differ by rounding only


class ZeroShotClassification:
    """Top-1 and top-5 accuracy, that of every class, and which classes are taken for which."""

    def __init__(
        self,
        *,
        class_images_path: str | None,
        templates: str | Sequence[str] = "photo",
        class_names: str | Sequence[str] | None = None,
    ) -> None:
        self._templates_name = templates
        self.templates = find_templates(templates)
        self.images = class_images(class_images_path, key="class_images_path", class_names=class_names)

    def __call__(self, subject: Subject) -> Result:
        weights = class_weights(subject, self.images.class_names, self.templates)
        scores = unit_rows(subject.images(self.images.images, title="zero-shot")) @ weights.T
        names, labels = self.images.class_names, self.images.labels
        metrics, confusion = accuracies(scores, labels, names), confusion_matrix(scores, labels)
        per_class = 100 * np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
        return Result(
            data={
                "class_images_path": self.images.path,
                "num_images": len(labels),
                "num_classes": len(names),
                "templates": self._templates_name,
                "num_templates": len(self.templates),
            },
            metrics=metrics,
            details={
                "class_names": names,
                "top1_percent_of_class": dict(zip(_distinct(names), per_class.tolist(), strict=True)),
                "confusion": confusion.tolist(),  # [true][predicted]
            },
            plots={"confusion": partial(plot_confusion, confusion=confusion, names=names)},
        )


def find_templates(name: str | Sequence[str]) -> list[str]:
    """Sentences around a class name: `none`, `photo`, `imagenet80` (OpenAI's for ImageNet), a text file with one a
    line, or templates themselves.
    """
    if isinstance(name, str) and name in TEMPLATES:
        return TEMPLATES[name]
    if name == "imagenet80":
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES  # late: slow to import

        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    if isinstance(name, str):
        name = [name] if "{}" in name else read_lines(name, key="templates", options=[*TEMPLATES, "imagenet80"])
    wrong = [template for template in name if template.count("{}") != 1]
    if wrong:
        raise UserError(f"templates: expected one {{}} for the class's name, found {wrong[0]!r}")
    return list(name)


def class_weights(
    subject: Subject, class_names: Sequence[str], templates: Sequence[str]
) -> Float[np.ndarray, "classes e"]:
    """For each class the mean of the normalised features of its sentences, normalised again (openai/CLIP)."""
    texts = [template.replace("{}", name) for name in class_names for template in templates]
    features = unit_rows(subject.texts(texts)).reshape(len(class_names), len(templates), -1)
    return unit_rows(features.mean(axis=1))


def _distinct(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names)]


def accuracies(
    scores: Float[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"], class_names: Sequence[str] = ()
) -> dict[str, float]:
    """Percent of rows whose true class is among the best 1 and 5 (or all, where there are fewer classes).

    Classes that score the same as the true one count as better: a model that says the same of everything gets 0. Of
    classes with one name, which must score the same, the first is taken for better, as openai/CLIP's notebook does.
    """
    true = np.take_along_axis(scores, labels[:, None], axis=1)
    ranks = (scores >= true - TIE).sum(axis=1)  # 1 is best
    if len(set(class_names)) < len(class_names):
        later = np.array([class_names[number + 1 :].count(name) for number, name in enumerate(class_names)])
        ranks -= later[labels]
    recalls = np.array([(ranks[labels == label] == 1).mean() for label in np.unique(labels)])
    return {
        "top1_percent": 100 * float((ranks <= 1).mean()),
        "top5_percent": 100 * float((ranks <= 5).mean()),
        "mean_class_accuracy_percent": 100 * float(recalls.mean()),
    }


def confusion_matrix(scores: Float[np.ndarray, "n classes"], labels: Int64[np.ndarray, " n"]) -> np.ndarray:
    """Counts int64 (classes, classes): row = true class, column = predicted."""
    confusion = np.zeros((scores.shape[1], scores.shape[1]), dtype=np.int64)
    np.add.at(confusion, (labels, scores.argmax(axis=1)), 1)
    return confusion


def plot_confusion(axes: Axes, *, confusion: np.ndarray, names: Sequence[str]) -> None:
    """Shares of each true class; numbers and names only where there is room for them."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true", title="confusion (percent of the true class)")
    if len(names) <= 20:
        axes.set_xticks(range(len(names)), list(names), rotation=45, ha="right")
        axes.set_yticks(range(len(names)), list(names))
        for row, column in np.ndindex(*shares.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=colour, size=7)
