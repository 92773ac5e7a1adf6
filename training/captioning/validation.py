"""How good a captioner is on held-out images: greedy captions against references and images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from evaluation.captions.caption_set import CaptionMetric
from evaluation.captions.score import score_captions
from models.captioner.decoding import decode
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from models.captioner.vocabulary import Vocabulary
from pairs.loading import Loading
from training.captioning.data import CaptionBatch, LabelledGrids, parts
from training.captioning.mle import summed_loss
from training.captioning.rewards import Reward, RewardImages
from training.compute import Compute
from training.distributed import from_all


@dataclass(frozen=True)
class Judged:
    """What one process found on its share of the images."""

    captions: dict[str, str]  # by image id
    references: dict[str, list[str]]
    judged: dict[str, list[float]]  # by judge, a value an image
    loss: float  # summed over the words
    words: float


@dataclass(frozen=True)
class CaptionValidation:
    """`loss` a word, the metrics of `score_captions`, and the means of `judges` by their names."""

    source: LabelledGrids
    vocabulary: Vocabulary
    decoding: Decoding
    judges: Mapping[str, Reward] = field(default_factory=dict)
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
        for name in self.judges:
            values = [value for share in shares for value in share.judged[name]]
            found[name] = sum(values) / len(values)
        return found

    def _own_share(self, model: Captioner, compute: Compute, loading: Loading) -> Judged:
        captions, references, loss, words = {}, {}, 0.0, 0.0
        judged: dict[str, list[float]] = {name: [] for name in self.judges}
        for batch in self.source.in_order(loading):
            (batch,) = parts(batch, 1, compute.device)
            loss += float(summed_loss(model, batch, compute))
            words += float(batch.mask[..., 1:].sum())
            sentences = self.captions_of(model, batch, compute)
            captions |= zip(batch.image_ids, sentences, strict=True)
            references |= zip(batch.image_ids, batch.references, strict=True)
            for name, judge in self.judges.items():
                judged[name] += judge(RewardImages.of(batch), sentences).tolist()
        return Judged(captions, references, judged, loss, words)

    def captions_of(self, model: Captioner, batch: CaptionBatch, compute: Compute) -> list[str]:
        with compute.autocast():
            decoded = decode(model, batch.grids, self.decoding, self.vocabulary, grid_mask=batch.grid_mask)
        return self.vocabulary.sentences(decoded.tokens)
