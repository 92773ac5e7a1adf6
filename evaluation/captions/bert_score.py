"""BERT-S: BERTScore (Zhang et al. 2020), how near the words of a caption and of a reference are to a language model.

Of each token the nearest one on the other side counts, by the cosine of their vectors: recall is the mean over the
reference's tokens, precision over the caption's, F their harmonic mean. No idf weights, no rescaling, best reference:
what papers on captions call BERT-S.

The numbers are those of bert-score 0.3.13 with transformers 4. The package itself is not used: with transformers 5 it
ends at an empty caption, and leaves out the space before the first word, which changes RoBERTa's scores silently.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float

from evaluation.captions.caption_set import CaptionSet
from evaluation.result import Result
from extraction.precision import usable_device
from models.hub import cached_first
from utils.errors import UserError, check_count, check_flags, check_text, first_line
from utils.progress_bar import progress_bar

# Those of the package, chosen there by what agrees best with people.
LAYERS = {
    "roberta-large": 17,
    "roberta-base": 10,
    "bert-large-uncased": 18,
    "bert-base-uncased": 9,
    "bert-base-multilingual-cased": 9,
    "distilbert-base-uncased": 5,
}
_IMAGES, _TEXTS, _TOKENS = 32, 64, 512  # at a time; tokens of a text at most


class BertS:
    """Mean over the images. Empty captions score 0."""

    def __init__(
        self,
        *,
        model_name: str = "roberta-large",
        layer: int | None = None,
        device: str = "cuda:0",
        offline: bool = False,
    ) -> None:
        check_text("bert_model", model_name)
        check_flags(offline=offline)
        known = LAYERS.get(Path(model_name).name)
        if layer is None and known is None:
            raise UserError(f"bert_model={model_name}: expected bert_layer=N, known is that of {', '.join(LAYERS)}")
        self._name, self._layer = model_name, known if layer is None else layer
        check_count("bert_layer", self._layer)
        self._device = usable_device(device)
        self._model, self._tokenizer = load_language_model(model_name, offline=offline)
        if self._layer > (count := self._model.config.num_hidden_layers):
            raise UserError(f"bert_layer={self._layer}: bert_model={model_name} has {count}")
        self._model.to(self._device)

    def __call__(self, captions: CaptionSet) -> Result:
        values: list[float] = []
        for start in progress_bar(range(0, len(captions.captions), _IMAGES), "bert_s", passing=True):
            block = slice(start, start + _IMAGES)
            values += self._scores(captions.captions[block], captions.references[block])
        return Result(
            data={"model": self._name, "layer": self._layer},
            metrics={"bert_s": float(np.mean(values))},
            details={"per_image": {"bert_s": values}},
        )

    def _scores(self, captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        texts = list(dict.fromkeys([*captions, *(text for own in references for text in own)]))
        seen = dict(zip(texts, self._vectors(texts), strict=True))
        return [
            max(f_score(*seen[caption], *seen[reference]) for reference in own)
            for caption, own in zip(captions, references, strict=True)
        ]

    @torch.inference_mode()
    def _vectors(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each text: rows of length 1 for its tokens, and which of them count: all but those at the ends."""
        # RoBERTa tells words behind a space from others; the published numbers are of texts that begin with one.
        spaced = [f" {text.strip()}".rstrip() for text in texts]
        tokenizer, found = self._tokenizer, []
        longest = min(tokenizer.model_max_length, _TOKENS)
        ends = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id])
        for start in range(0, len(texts), _TEXTS):
            batch = tokenizer(
                spaced[start : start + _TEXTS], padding=True, truncation=True, max_length=longest, return_tensors="pt"
            )
            states = self._model(**batch.to(self._device), output_hidden_states=True).hidden_states[self._layer]
            rows, ids, kept = (
                F.normalize(states, dim=-1).cpu(),
                batch.input_ids.cpu(),
                batch.attention_mask.cpu().bool(),
            )
            counted = ~torch.isin(ids, ends)
            found += [(rows[k, kept[k]].numpy(), counted[k, kept[k]].numpy()) for k in range(len(rows))]
        return found


def f_score(
    caption: Float[np.ndarray, "t e"],
    of_caption: Bool[np.ndarray, " t"],
    reference: Float[np.ndarray, "u e"],
    of_reference: Bool[np.ndarray, " u"],
) -> float:
    """0..1; 0 where no token counts. Any token may be the nearest, also one that does not count itself."""
    if not of_caption.any() or not of_reference.any():
        return 0.0
    cosines = caption @ reference.T
    precision, recall = cosines.max(axis=1)[of_caption].mean(), cosines.max(axis=0)[of_reference].mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0


def load_language_model(name: str, *, offline: bool) -> tuple[Any, Any]:
    """Model (float32, evaluation mode, on the CPU) and tokenizer: of a folder, of the hub's cache, else fetched."""
    path = Path(name).expanduser()
    if not path.is_dir() and name.startswith(("/", ".", "~")):
        raise UserError(f"bert_model={name}: no such folder")
    try:
        return _read(str(path)) if path.is_dir() else cached_first(partial(_read, name), offline=offline)
    except OSError as error:
        raise UserError(
            f"bert_model={name}: expected the folder of a model, or one of the Hugging Face hub; "
            f"{first_line(error, longest=400)}"
        ) from error


def _read(source: str) -> tuple[Any, Any]:
    """OSError where files are missing."""
    from transformers import AutoModel, AutoTokenizer  # late: slow to import
    from transformers.utils import logging as library

    library.disable_progress_bar()
    library.set_verbosity_error()  # RoBERTa's file lacks what is above the last layer, and has what is not asked for
    try:
        model, found = AutoModel.from_pretrained(source, output_loading_info=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except OSError:
        raise
    except Exception as error:  # whatever the library makes of a stranger's files
        raise UserError(f"bert_model={source}: transformers cannot load it ({first_line(error)})") from error
    lacking = [key for key in found["missing_keys"] if "pooler" not in key]
    if lacking:
        raise UserError(f"bert_model={source}: {len(lacking)} weights are missing, {lacking[0]} for one")
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):  # made where there is no file of one
        raise UserError(f"bert_model={source}: no vocabulary there: expected tokenizer.json, vocab.json or vocab.txt")
    return model.float().eval(), tokenizer
