"""CLIP-S (Hessel et al. 2021): how near a caption is to its image."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

PREFIX = "A photo depicts "  # before every caption that CLIP is shown, references too; one setting for all of them
SCALE = 2.5


def prefixed(captions: Iterable[str], prefix: str = PREFIX) -> list[str]:
    return [prefix + caption for caption in captions]


def clip_s(images: Float[np.ndarray, "n e"], captions: Float[np.ndarray, "n e"]) -> Float[np.ndarray, " n"]:
    """2.5 max(cos, 0), row by row; rows of length 1."""
    return SCALE * np.maximum((images * captions).sum(axis=1), 0)
