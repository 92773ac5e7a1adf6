"""CLIP's view of images and captions, computed when the first metric asks for it."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from evaluation.subject import OpenImage, Subject, unit_rows


class ClipFeatures:
    """Rows have length 1. `load` is called, and the images are read, once at most."""

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
