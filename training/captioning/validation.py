"""How good a captioner is on held-out images: greedy captions against references and images."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from evaluation.captions.caption_set import CaptionMetric
from evaluation.captions.score import score_captions
from models.captioner.decoding import decode
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from models.captioner.vocabulary import Vocabulary
from training.agreement import from_all
from training.captioning.data import CaptionBatch, CaptionSource
from training.captioning.mle import summed_loss
from training.captioning.parts import parts
from training.captioning.rewards import ClipSReward, RewardImages
from training.compute import Compute
from training.loading import Loading


@dataclass(frozen=True)
class Judged:
    """What one process found on its share of the images."""

    captions: dict[str, str]  # by image id
    references: dict[str, list[str]]
    clip_s: list[float]
    loss: float  # summed over the words
    words: float


@dataclass(frozen=True)
class CaptionValidation:
    """`loss` a word, the metrics of `score_captions`, and CLIP-S by the original model, where there are embeddings."""

    source: CaptionSource
    vocabulary: Vocabulary
    decoding: Decoding
    clip_s: ClipSReward | None = None
    metrics: Mapping[str, CaptionMetric] | None = None

    @torch.no_grad()
    def __call__(self, model: Captioner, compute: Compute, loading: Loading) -> dict[str, float]:
        """The same in every process: each captions its share, all score everything."""
        model.eval()
        shares: list[Judged] = from_all(self._own_share(model, compute, loading))
        captions = {image_id: caption for share in shares for image_id, caption in share.captions.items()}
        references = {image_id: own for share in shares for image_id, own in share.references.items()}
        found = {"loss": sum(share.loss for share in shares) / sum(share.words for share in shares)}
        found |= score_captions(captions, references, metrics=self.metrics)
        clip_s = [value for share in shares for value in share.clip_s]
        if clip_s:
            found["clip_s"] = sum(clip_s) / len(clip_s)
        return found

    def _own_share(self, model: Captioner, compute: Compute, loading: Loading) -> Judged:
        captions, references, clip_s, loss, words = {}, {}, [], 0.0, 0.0
        for batch in self.source.in_order(loading):
            (batch,) = parts(batch, 1, compute.device)
            loss += float(summed_loss(model, batch, compute))
            words += float(batch.mask[..., 1:].sum())
            sentences = self.captions_of(model, batch, compute)
            captions |= zip(batch.image_ids, sentences, strict=True)
            spoken = [[" ".join(reference) for reference in own] for own in batch.references]
            references |= zip(batch.image_ids, spoken, strict=True)
            if self.clip_s is not None:
                clip_s += self.clip_s(RewardImages.of(batch), sentences).tolist()
        return Judged(captions, references, clip_s, loss, words)

    def captions_of(self, model: Captioner, batch: CaptionBatch, compute: Compute) -> list[str]:
        with compute.autocast():
            decoded = decode(model, batch.grids, self.decoding, self.vocabulary, grid_mask=batch.grid_mask)
        return self.vocabulary.sentences(decoded.tokens)
