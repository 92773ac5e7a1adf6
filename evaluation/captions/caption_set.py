"""What is judged (captions with their references), and what a metric of captions is (config group `caption_metric`)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from evaluation.captions.tokenizer import Tokens, tokenize
from evaluation.result import Result
from evaluation.subject import Subject, unit_rows
from pairs.picture_folders import OpenImage
from utils.errors import UserError


class ClipFeatures:
    """CLIP's view of images and captions; rows have length 1. Model and images are read when a metric first asks."""

    def __init__(self, *, load: Callable[[], Subject], images: Sequence[OpenImage]) -> None:
        self._load = load
        self._images = images

    @cached_property
    def subject(self) -> Subject:
        return self._load()

    @property
    def facts(self) -> dict[str, Any]:
        """Which model it was; nothing where no metric has asked yet."""
        return self.subject.facts if "subject" in vars(self) else {}

    @cached_property
    def images(self) -> Float[np.ndarray, "n e"]:
        return unit_rows(self.subject.images(self._images, title="images"))

    def texts(self, texts: Sequence[str]) -> Float[np.ndarray, "m e"]:
        return unit_rows(self.subject.texts(texts))


@dataclass(frozen=True)
class CaptionSet:
    """n images; `captions[k]` is judged by `references[k]`, one or more. `clip` sees the images, if they are given."""

    image_ids: list[str]
    captions: list[str]
    references: list[list[str]]
    clip: ClipFeatures | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.image_ids), len(self.captions), len(self.references)}
        if len(lengths) > 1 or not self.image_ids:
            raise ValueError(f"lengths {sorted(lengths)}: expected one caption and one list of references an image")
        if not all(self.references):
            raise ValueError("an image without references")

    @classmethod
    def of(cls, captions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> "CaptionSet":
        """Captions by image id, in their order. UserError where an image has no references."""
        unknown = [image_id for image_id in captions if not references.get(image_id)]
        if unknown:
            raise UserError(f"{len(unknown)} of {len(captions)} captions have no references: image {unknown[0]} ...")
        if not captions:
            raise UserError("no captions to be scored")
        ids = list(captions)
        return cls([str(i) for i in ids], [captions[i] for i in ids], [list(references[i]) for i in ids])

    @cached_property
    def words(self) -> list[Tokens]:
        return [tokenize(caption) for caption in self.captions]

    @cached_property
    def reference_words(self) -> list[list[Tokens]]:
        return [[tokenize(reference) for reference in references] for references in self.references]

    def need_clip(self, metric: str) -> ClipFeatures:
        """UserError where no images were given."""
        if self.clip is None:
            raise UserError(f"{metric}: needs the images; expected image_folder=FOLDER")
        return self.clip


class CaptionMetric(Protocol):
    """One option of the config group `caption_metric`. Wrong arguments raise UserError on construction.

    `details["per_image"]` of the result: metric -> one value an image, in the order of the set.
    """

    def __call__(self, captions: CaptionSet) -> Result: ...
