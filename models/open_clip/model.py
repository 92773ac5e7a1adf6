"""A model of the open_clip library with the face of `models.clip.model.CLIP`: one encoder serves both families."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from extraction.precision import Precision, autocast, convert, weights_dtype
from extraction.towers import Color, Probability, Resample, Resize, check_tokens
from models.open_clip.tokenizer import Tokenizer, tokenize
from utils.errors import UserError

_RESIZES: dict[str, Resize] = {"shortest": "crop", "squash": "squash"}
_RESAMPLES: dict[str, Resample] = {"bicubic": "bicubic", "bilinear": "bilinear"}


class OpenCLIPTower:
    """The image side. `trunk` runs the tower once and gives both its grid and its vectors."""

    def __init__(self, model: Any, preprocess: dict[str, Any]) -> None:
        self._model = model
        size = preprocess["size"]
        width, height = size if isinstance(size, tuple | list) else (size, size)
        resize, resample = (preprocess[key] for key in ("resize_mode", "interpolation"))
        if width != height or resample not in _RESAMPLES or resize not in _RESIZES:
            raise UserError(
                f"this model wants its images prepared in a way that is not supported here: {preprocess}; expected a "
                "square size, interpolation bicubic or bilinear, resize_mode shortest or squash"
            )
        self.input_resolution: int = width
        self.resize: Resize = _RESIZES[resize]
        self.resample: Resample = _RESAMPLES[resample]
        self.mean: Color = tuple(preprocess["mean"])
        self.std: Color = tuple(preprocess["std"])
        # Neither the width of the vectors nor the shape of the map is written down for every tower: one black image.
        with torch.no_grad():
            black = torch.zeros(1, 3, width, width)
            self.output_dim: int = self._model.encode_image(black).shape[1]
            self.map_shape: tuple[int, int, int] | None = None
            if hasattr(self._model.visual, "forward_intermediates"):
                _, *shape = self.grid(self.trunk(black)).shape
                self.map_shape = shape[0], shape[1], shape[2]

    @property
    def dtype(self) -> torch.dtype:
        return weights_dtype(self._model.visual)

    def trunk(self, x: Float[Tensor, "b 3 n n"]) -> dict[str, Any]:
        """Before the last norm and not projected, as for OpenAI's models."""
        with autocast(self._model, x.device):
            return self._model.visual.forward_intermediates(x, indices=1, normalize_intermediates=False)

    def head(self, outputs: dict[str, Any]) -> Float[Tensor, "b e"]:
        return outputs["image_features"]

    def grid(self, outputs: dict[str, Any]) -> Float[Tensor, "b c i j"]:
        return outputs["image_intermediates"][-1]


class OpenCLIP(nn.Module):
    """`model` as open_clip builds it, in evaluation mode."""

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, preprocess: dict[str, Any]) -> None:
        super().__init__()
        self.model, self._tokenizer = model, tokenizer
        self.visual = OpenCLIPTower(model, preprocess)
        self.context_length: int = tokenizer.context_length

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        return self.model.logit_bias

    @property
    def probability(self) -> Probability:
        """A bias is what the sigmoid loss needs: SigLIP and its like."""
        return "softmax" if self.logit_bias is None else "sigmoid"

    def to_precision(self, precision: Precision, device: torch.device) -> None:
        convert(self, precision, device)

    def encode_image(self, image: Float[Tensor, "b 3 n n"]) -> Float[Tensor, "b e"]:
        with autocast(self, image.device):
            return self.model.encode_image(image.to(self.visual.dtype))

    def encode_text(self, text: Int[Tensor, "b t"]) -> Float[Tensor, "b e"]:
        check_tokens(text, context_length=self.context_length, vocab_size=self.model.vocab_size)
        with autocast(self, text.device):
            return self.model.encode_text(text)

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Int[Tensor, "b t"]:
        """As open_clip's tokenizer of this model; a text that is too long is a UserError unless `truncate`."""
        return tokenize(self._tokenizer, texts, truncate=truncate)
