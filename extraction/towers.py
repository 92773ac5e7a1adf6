"""What extraction asks of a model of any family: the contracts of its towers, and what a loaded model is.

A family is a folder `models/<feature_type>/` whose module `family` has a function `load` (see `models.load`). Its model
need not be of any class: it only has to have what `ImageTextModel` lists.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from extraction.precision import Precision
from utils.errors import UserError

Color = tuple[float, float, float]  # red, green, blue; 0..1
# Short side to n pixels and the centre cut out; the whole image into n x n; or into whole patches, in its own shape.
Resize = Literal["crop", "squash", "patches"]
Resample = Literal["bicubic", "bilinear"]
Probability = Literal["softmax", "sigmoid"]


class ImageTower(Protocol):
    """Prepared images (b, 3, n, n) with n = `input_resolution` -> one vector each, and a map where it has one.

    Both come of one pass: `head(trunk(x))` is the vector, `grid(trunk(x))` the map. What `trunk` gives is the tower's
    own affair. `mean`, `std`, `resize` and `resample` say how its images are prepared.
    """

    input_resolution: int
    output_dim: int
    mean: Color
    std: Color
    resize: Resize
    resample: Resample

    @property
    def dtype(self) -> torch.dtype:
        """What its images are cast to."""
        ...

    @property
    def map_shape(self) -> tuple[int, int, int] | None:
        """(c, i, j) of `grid`; None where the tower has no map, and only its `head` is asked for."""
        ...

    def trunk(self, x: Float[Tensor, "b 3 n n"], /) -> Any: ...

    def head(self, outputs: Any, /) -> Float[Tensor, "b e"]: ...

    def grid(self, outputs: Any, /) -> Float[Tensor, "b c i j"]: ...


@runtime_checkable
class AnyShapeTower(Protocol):
    """Besides, an `ImageTower` whose pictures need not be alike, as those of SigLIP 2 NaFlex.

    It takes a list of pictures (3, h, w), and gives a list of maps (c, i, j) of at most `max_patches` cells; its
    `map_shape` is that of square pictures.
    """

    max_patches: int

    def trunk(self, x: Sequence[Tensor], /) -> Any: ...

    def head(self, outputs: Any, /) -> Float[Tensor, "b e"]: ...

    def grid(self, outputs: Any, /) -> Sequence[Tensor]: ...


class TextTower(Protocol):
    """Token ids (b, t) -> one vector each: `project(pooled(tokens))`."""

    context_length: int
    output_dim: int
    pooled_dim: int

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def vocab_size(self) -> int: ...

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Int[Tensor, "b t"]:
        """Always `context_length` wide, whatever the texts: the tower itself cuts off padding that costs time.

        UserError for a text that is too long, unless `truncate`.
        """
        ...

    def pooled(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b c"]:
        """Before the projection into the space that images share; c is `pooled_dim`."""
        ...

    def project(self, pooled: Float[Tensor, "b c"]) -> Float[Tensor, "b e"]: ...

    def to(self, device: torch.device, /) -> Any: ...


class ImageTextModel(Protocol):
    """Images and texts in one space. Features are not normalised."""

    @property
    def visual(self) -> ImageTower: ...

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of the factor on the cosines."""
        ...

    @property
    def logit_bias(self) -> Tensor | None:
        """What is added to the logits, if anything."""
        ...

    @property
    def probability(self) -> Probability:
        """What makes probabilities of logits: `softmax` over the texts, or `sigmoid` for each of them."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def encode_image(self, image: Any) -> Float[Tensor, "b e"]:
        """Prepared images (b, 3, n, n); a list of them where `visual` is an `AnyShapeTower`."""
        ...

    def encode_text(self, text: Int[Tensor, "b t"]) -> Float[Tensor, "b e"]: ...

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Int[Tensor, "b t"]:
        """As `TextTower.tokenize`."""
        ...

    def to_precision(self, precision: Precision, device: torch.device) -> None:
        """In place and in evaluation mode; `extraction.precision.convert` does it for any module."""
        ...


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """What a family's `load` gives: the model in evaluation mode, float32, on the CPU, and what identifies it."""

    model: ImageTextModel
    name: str  # of the folder of its results: "ViT-B_32"
    weights: str  # where they come from, for people
    files: tuple[Path, ...]  # that the features depend on: weights, and configuration and tokenizer if read
    settings: Mapping[str, Any]  # what else the features depend on
    licence: str | None = None  # of the weights, if they say: "apache-2.0" (`models.licence`)


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model that a job can use. It is still float32 and on the CPU: `Encoder` brings it to `device` and `precision`.

    `settings` identify it: feature_type, model_name, SHA-256 of the weights, and what the family adds.
    """

    model: ImageTextModel
    feature_type: str
    name: str
    settings: Mapping[str, Any]
    weights: str
    device: torch.device
    precision: Precision  # not "auto"
    licence: str | None = None

    @property
    def folder(self) -> str:
        """Of its results: "clip/ViT-B_32"."""
        return f"{self.feature_type}/{self.name}"


def check_tokens(
    tokens: Int[Tensor, "b t"], *, context_length: int, vocab_size: int, first_id: int | None = None
) -> None:
    """UserError for ids that are another tokenizer's, on which an embedding would fail without a word about why.

    `first_id`: what every text of this model begins with. A large vocabulary has the ids of another one, too.
    """
    instead = "use model.tokenize(texts), not clip.tokenize or the tokenizer of another model"
    width, largest = tokens.shape[1], int(tokens.max()) if tokens.numel() else 0
    if width > context_length or largest >= vocab_size:
        raise UserError(
            f"token ids (b, {width}) up to {largest} are not this model's, which takes (b, {context_length}) up to "
            f"{vocab_size - 1}: {instead}"
        )
    if first_id is not None and tokens.numel() and (others := tokens[:, 0][tokens[:, 0] != first_id]).numel():
        raise UserError(
            f"token ids that begin with {int(others[0])} are not this model's, which begin with {first_id}: {instead}"
        )
