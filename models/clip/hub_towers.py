"""Towers around models of other libraries: any timm model for images, DistilBERT for texts.

Original: seed of a small dual encoder on Flickr8k (timm ResNet-50 + `distilbert-base-uncased`, projections to 256).
Both are trunk -> projection. Deliberate differences:
- a frozen trunk (`trainable=False`) stays in evaluation mode, else its BatchNorm would go on moving;
- images are squashed with an antialiased bicubic filter (there: OpenCV's bilinear one, which aliases);
- texts are padded to `context_length` and computed as far as the longest of a batch: padding is masked anyway.
timm and transformers are imported when a tower is built: they are slow to import. For pretrained weights see
`models.clip.pretrained`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from extraction.precision import autocast, weights_dtype
from extraction.towers import Color, Resample, Resize, check_tokens
from models.clip.layers import NARROWEST, LayerNorm, constructor_arguments
from models.clip.positions import Interpolation
from models.clip.pretrained import pretrained_distilbert, timm_model
from models.clip.tokenizer import fixed_width
from models.clip.wordpiece import SPECIAL, learn_vocabulary
from utils.errors import UserError, check_option

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROJECTIONS = ("head", "linear")


class ProjectionHead(nn.Module):
    """p = Linear(x); LayerNorm(p + Dropout(Linear(GELU(p)))). (b, in_dim) -> (b, out_dim)"""

    def __init__(self, in_dim: int, out_dim: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(in_dim, out_dim)
        self.fc = nn.Linear(out_dim, out_dim)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = LayerNorm(out_dim)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        projected = self.projection(x)
        return self.layer_norm(projected + self.dropout(self.fc(F.gelu(projected))))


def _projection(kind: str, in_dim: int, out_dim: int, dropout: float) -> nn.Module:
    check_option("projection", kind, PROJECTIONS)
    if kind == "head":
        return ProjectionHead(in_dim, out_dim, dropout=dropout)
    return nn.Linear(in_dim, out_dim, bias=False)


class TimmTower(nn.Module):
    """Any model of timm: its pooled features (2048 of ResNet-50) -> (b, embed_dim). Input (b, 3, n, n).

    `pretrained`: true takes timm's weights from the Hugging Face hub or its cache; or their file, or a folder with it.
    """

    mean: Color = IMAGENET_MEAN
    std: Color = IMAGENET_STD
    resize: Resize = "squash"
    resample: Resample = "bicubic"
    map_shape = None

    def __init__(
        self,
        *,
        model_name: str = "resnet50",
        pretrained: bool | str = False,
        embed_dim: int = 256,
        projection: str = "head",
        dropout: float = 0.1,
        trainable: bool = True,
        resolution: int = 224,
    ) -> None:
        # Built again, the weights come from the checkpoint.
        self.arguments = constructor_arguments(locals()) | {"pretrained": False}
        super().__init__()
        self.input_resolution, self.output_dim, self.trainable = resolution, embed_dim, trainable
        self.trunk = timm_model(model_name, pretrained, resolution).requires_grad_(trainable)
        width = getattr(self.trunk, "head_hidden_size", None) or self.trunk.num_features
        self.projection = _projection(projection, width, embed_dim, dropout)  # pyright: ignore[reportArgumentType]

    @property
    def dtype(self) -> torch.dtype:
        return weights_dtype(self)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b e"]:
        with autocast(self, x.device):
            return self.head(self.trunk(x))

    def head(self, pooled: Float[Tensor, "b c"]) -> Float[Tensor, "b e"]:
        return self.projection(pooled)

    def grid(self, pooled: Float[Tensor, "b c"]) -> Tensor:
        raise UserError("features=grid: this image tower has no grid; expected features=global")

    def at_resolution(self, resolution: int, interpolation: Interpolation = "bicubic") -> None:
        """UserError for any size but its own."""
        n = self.input_resolution
        if resolution != n:
            raise UserError(f"resolution={resolution}: this timm model was built for {n} pixels and takes these only")

    def train(self, mode: bool = True) -> "TimmTower":
        super().train(mode)
        self.trunk.train(mode and self.trainable)
        return self

    def initialize(self) -> None:
        """Nothing: timm has set its initial or pretrained weights, PyTorch those of the projection."""


class DistilBertTower(nn.Module):
    """DistilBERT read at [CLS], position 0 of the last hidden state (b, t, 768) -> (b, embed_dim).

    `pretrained`: a folder as transformers saves it (or the weights' file in it), or a name on the Hugging Face hub such
    as `distilbert-base-uncased`. With None (or false) the tower is built from its sizes and has no vocabulary:
    `learn_vocabulary(captions)` comes before `tokenize`, the optimizer and the first step.
    `positions` is the longest text the trunk can take, `context_length` where texts are cut.
    """

    def __init__(
        self,
        *,
        pretrained: str | bool | None = None,
        vocabulary: Sequence[str] | None = None,
        lowercase: bool = True,
        embed_dim: int = 256,
        projection: str = "head",
        dropout: float = 0.1,
        trainable: bool = True,
        context_length: int = 200,
        width: int = 768,
        layers: int = 6,
        heads: int = 12,
        hidden_width: int = 3072,
        positions: int = 512,
    ) -> None:
        arguments: dict[str, Any] = constructor_arguments(locals()) | {"pretrained": None}
        super().__init__()
        if pretrained:
            self.trunk, facts = pretrained_distilbert(pretrained)
            arguments |= facts
        else:
            self.trunk = _distilbert(len(vocabulary or SPECIAL), width, layers, heads, hidden_width, positions)
        self.arguments = arguments
        self.context_length, self.output_dim, self.trainable = context_length, embed_dim, trainable
        if context_length > arguments["positions"]:
            raise UserError(f"context_length={context_length}: this DistilBERT takes {arguments['positions']} at most")
        self.trunk.requires_grad_(trainable)
        self.pooled_dim: int = arguments["width"]
        self.projection = _projection(projection, self.pooled_dim, embed_dim, dropout)
        self._set_vocabulary(arguments["vocabulary"])

    @property
    def dtype(self) -> torch.dtype:
        return weights_dtype(self)

    @property
    def vocabulary(self) -> Sequence[str] | None:
        """WordPieces in the order of their ids; None before they are learned."""
        return self.arguments["vocabulary"]

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary or SPECIAL)

    def forward(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b e"]:
        return self.project(self.pooled(tokens))

    def pooled(self, tokens: Int[Tensor, "b t"]) -> Float[Tensor, "b c"]:
        """The last hidden state at [CLS]."""
        mask = (tokens != self._pad_id).to(torch.long)
        columns = mask.any(dim=0).nonzero()
        longest = int(columns.max()) + 1 if len(columns) else 1
        used = max(longest, NARROWEST)  # padding behind only costs time
        with autocast(self, tokens.device):
            hidden = self.trunk(input_ids=tokens[:, :used], attention_mask=mask[:, :used]).last_hidden_state
        return hidden[:, 0]

    def project(self, pooled: Float[Tensor, "b c"]) -> Float[Tensor, "b e"]:
        with autocast(self, pooled.device):
            return self.projection(pooled)

    def tokenize(self, texts: list[str], *, truncate: bool = False) -> Int[Tensor, "b t"]:
        """[CLS] text [SEP], int32, padded to `context_length`."""
        if not self.vocabulary:
            raise UserError("this DistilBERT has no vocabulary yet: learn_vocabulary(captions) makes one")
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        return fixed_width(rows, texts, self.context_length, truncate=truncate, pad_id=self._pad_id)

    def fitted(self, tokens: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """The same ids; UserError unless they are of `tokenize`."""
        check_tokens(tokens, context_length=self.context_length, vocab_size=self.vocab_size, first_id=self._first_id)
        return tokens

    def learn_vocabulary(self, captions: Iterable[str], *, size: int = 30_522) -> None:
        """Make a WordPiece vocabulary of the captions and word embeddings for it. The same captions give the same."""
        vocabulary = learn_vocabulary(captions, size=size, lowercase=self.arguments["lowercase"])
        old = self.trunk.embeddings.word_embeddings
        new = nn.Embedding(len(vocabulary), old.embedding_dim, padding_idx=0, device=old.weight.device)
        nn.init.normal_(new.weight, std=0.02)  # as transformers does
        nn.init.zeros_(new.weight[0].data)
        self.trunk.embeddings.word_embeddings = new.requires_grad_(self.trainable)
        self.trunk.config.vocab_size = len(vocabulary)
        self._set_vocabulary(vocabulary)

    def _set_vocabulary(self, vocabulary: Sequence[str] | None) -> None:
        from tokenizers import BertWordPieceTokenizer

        self.arguments["vocabulary"] = vocabulary
        ids = {word: index for index, word in enumerate(vocabulary or SPECIAL)}
        self._pad_id, self._first_id = ids["[PAD]"], ids["[CLS]"]
        self._tokenizer = BertWordPieceTokenizer(ids, lowercase=self.arguments["lowercase"])

    def train(self, mode: bool = True) -> "DistilBertTower":
        super().train(mode)
        self.trunk.train(mode and self.trainable)
        return self

    def initialize(self) -> None:
        """Nothing: transformers has set its initial or pretrained weights, PyTorch those of the projection."""


def _distilbert(words: int, width: int, layers: int, heads: int, hidden_width: int, positions: int) -> Any:
    from transformers import DistilBertConfig, DistilBertModel

    sizes: dict[str, Any] = {"dim": width, "n_layers": layers, "n_heads": heads, "hidden_dim": hidden_width}
    return DistilBertModel(DistilBertConfig(vocab_size=words, max_position_embeddings=positions, **sizes))
