"""Sentences around a class name, "a photo of a {}", and the classifier that an ensemble of them makes."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from evaluation.subject import Subject, unit_rows
from pairs.class_images import read_lines
from utils.errors import UserError

NAMED = ("none", "photo", "imagenet80")


def find_templates(name: str | Sequence[str]) -> list[str]:
    """`none`, `photo`, `imagenet80` (OpenAI's for ImageNet), a text file with one a line, or templates themselves."""
    if not isinstance(name, str):
        return [_checked(template) for template in name]
    if name == "none":
        return ["{}"]
    if name == "photo":
        return ["a photo of a {}"]
    if name == "imagenet80":
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES  # late: slow to import

        return [template("{}") for template in OPENAI_IMAGENET_TEMPLATES]
    if "{}" in name:
        return [name]
    return [_checked(line) for line in read_lines(name, key="templates", options=NAMED)]


def class_weights(
    subject: Subject, class_names: Sequence[str], templates: Sequence[str]
) -> Float[np.ndarray, "classes e"]:
    """For each class the mean of the normalised features of its sentences, normalised again (openai/CLIP)."""
    texts = [template.replace("{}", name) for name in class_names for template in templates]
    features = unit_rows(subject.texts(texts)).reshape(len(class_names), len(templates), -1)
    return unit_rows(features.mean(axis=1))


def _checked(template: str) -> str:
    if template.count("{}") != 1:
        raise UserError(f"templates: expected one {{}} for the class's name, found {template!r}")
    return template
