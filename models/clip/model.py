"""CLIP: an image tower and a text tower that meet in one space.

Paper: Radford et al. 2021. Original code: openai/CLIP, `clip/model.py`. `state_dict()` has the original's keys,
so that checkpoints travel both ways; in the module itself the text tower is `model.text`.
"""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from extraction.precision import Precision, cast_layers, convert
from extraction.towers import ImageTower, Probability, TextTower
from models.clip.positions import Interpolation
from utils.errors import UserError

MAX_LOGIT_SCALE = math.log(100)


class Trainable(Protocol):
    """What training and checkpoints ask of a tower: a module that can be built again and given initial weights."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Of its constructor; see `models.clip.description`."""
        ...

    def initialize(self) -> None: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def compile(self) -> None: ...

    def __call__(self, x: Tensor, /) -> Tensor: ...


class CLIPImageTower(ImageTower, Trainable, Protocol):
    def at_resolution(self, resolution: int, interpolation: Interpolation = "bicubic") -> None:
        """From now on for images of `resolution` pixels; UserError where that cannot be."""
        ...


class CLIPTextTower(TextTower, Trainable, Protocol):
    def fitted(self, tokens: Int[Tensor, "b t"]) -> Int[Tensor, "b n"]:
        """Ids as the tower takes them; UserError for those of another tokenizer.

        Towers with CLIP's own take `clip.tokenize`'s for any length, as everybody's code has them.
        """
        ...


class CLIP(nn.Module):
    """`visual` and `text` are any two towers that give vectors of one width; `models.clip.description` lists ours."""

    visual: CLIPImageTower
    text: CLIPTextTower
    logit_bias = None
    probability: Probability = "softmax"

    def __init__(self, visual: CLIPImageTower, text: CLIPTextTower) -> None:
        super().__init__()
        if visual.output_dim != text.output_dim:
            raise UserError(
                f"the towers do not meet: features of the image tower have {visual.output_dim} numbers, those of the "
                f"text tower {text.output_dim}; give both the same embed_dim"
            )
        self.visual = visual
        self.text = text
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.register_state_dict_post_hook(_save_text_without_prefix)
        self.register_load_state_dict_pre_hook(_load_text_without_prefix)

    @property
    def dtype(self) -> torch.dtype:
        """Of the image tower's weights: images are cast to it."""
        return self.visual.dtype

    @property
    def context_length(self) -> int:
        return self.text.context_length

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Int[Tensor, "b t"]:
        """Token ids as the text tower takes them; too long a text raises UserError unless `truncate`."""
        return self.text.tokenize(texts, truncate=truncate)

    def encode_image(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        """Preprocessed images -> features, not normalised."""
        return self.visual(image.to(self.visual.dtype))

    def encode_text(self, text: Int[Tensor, "b t"]) -> Float[Tensor, "b e"]:
        """Token ids of `tokenize` (or `clip.tokenize`, if the model has CLIP's tokens) -> features, not normalised."""
        return self.text(self.text.fitted(text))

    def forward(
        self, image: Float[Tensor, "b 3 h w"], text: Int[Tensor, "n t"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "n b"]]:
        """(logits_per_image, logits_per_text): cosines times exp(logit_scale)."""
        image_features = F.normalize(self.encode_image(image), dim=-1)
        text_features = F.normalize(self.encode_text(text), dim=-1)
        logits_per_image = self.logit_scale.exp() * image_features @ text_features.t()
        return logits_per_image, logits_per_image.t()

    def initialize(self) -> None:
        """Initial weights for training, as in the original."""
        self.visual.initialize()
        self.text.initialize()

    def to_precision(self, precision: Precision, device: torch.device) -> None:
        """In place, for inference. In half precision as OpenAI's models: see `convert_weights`."""
        convert(self, precision, device, cast=convert_weights)

    def clamp_logit_scale(self) -> None:
        """Keep the factor on the cosines within 1..100: called after each step of the optimizer, as in the paper."""
        with torch.no_grad():
            self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)


def convert_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast in place what OpenAI keeps in half precision: convolutions, linears and the two projections.

    LayerNorm, BatchNorm, embeddings and logit_scale stay float32.
    """
    cast_layers(model, dtype)
    for module in model.modules():
        for name in ("text_projection", "proj"):
            parameter = getattr(module, name, None)
            if isinstance(parameter, nn.Parameter):
                parameter.data = parameter.data.to(dtype)


# OpenAI's state dicts keep the text tower at the top level, beside `visual.` and `logit_scale`.
_NOT_TEXT = ("visual.", "logit_scale", "logit_bias", "text.")


def _save_text_without_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}text.")]:
        state[prefix + key.removeprefix(f"{prefix}text.")] = state.pop(key)


def _load_text_without_prefix(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        name = key.removeprefix(prefix)
        if not name.startswith(_NOT_TEXT):
            state[f"{prefix}text.{name}"] = state.pop(key)
