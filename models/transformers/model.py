"""A model of the transformers library with the face of `extraction.towers.ImageTextModel`."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from extraction.precision import Precision, autocast, convert
from extraction.towers import Probability, check_tokens
from models.transformers.towers import NaFlexTower, PatchTower, project
from utils.errors import UserError


class TransformersModel(nn.Module):
    """`model` in evaluation mode; `visual` computes with it; `tokenizer` from the same folder."""

    model: Any

    def __init__(self, model: nn.Module, visual: PatchTower | NaFlexTower, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.visual, self._tokenizer = model, visual, tokenizer
        text = self.model.text_model.config
        self.context_length: int = text.max_position_embeddings
        self._vocab_size: int = text.vocab_size
        # CLIP reads its texts at their end, before any padding. SigLIP was trained to see padding, so that only a
        # tokenizer that says so hides it.
        self._hides_padding = self.logit_bias is not None and "attention_mask" in tokenizer.model_input_names

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        return getattr(self.model, "logit_bias", None)

    @property
    def probability(self) -> Probability:
        return "softmax" if self.logit_bias is None else "sigmoid"

    def to_precision(self, precision: Precision, device: torch.device) -> None:
        convert(self, precision, device)

    def encode_image(self, image: Any) -> Float[Tensor, "b e"]:
        return self.visual.head(self.visual.trunk(image))

    def encode_text(self, text: Int[Tensor, "b t"]) -> Float[Tensor, "b e"]:
        check_tokens(text, context_length=self.context_length, vocab_size=self._vocab_size)
        mask = self._is_text(text) if self._hides_padding else None
        with autocast(self, text.device):
            pooled = self.model.text_model(input_ids=text, attention_mask=mask).pooler_output
            return project(self.model, "text", pooled)

    def _is_text(self, text: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """As the tokenizer's attention mask: without padding, which may have the id of the end."""
        ends = text == self._tokenizer.eos_token_id
        return ((text != self._tokenizer.pad_token_id) | (ends & (ends.cumsum(dim=1) == 1))).int()

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Int[Tensor, "b t"]:
        if not texts:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        rows = self._tokenizer(
            texts, padding="max_length", truncation=truncate, max_length=self.context_length, verbose=False
        )["input_ids"]
        for text, ids in zip(texts, rows, strict=True):
            if len(ids) > self.context_length:
                raise UserError(
                    f"the text has {len(ids)} tokens, {self.context_length} is the most this model takes: {text[:80]!r}"
                )
        return torch.tensor(rows)
