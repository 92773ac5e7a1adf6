"""What captions are rewarded for in self-critical training (config group `reward`).

    reward(images, captions) -> (n,)

Rewards add up, each with its weight (`RewardSum`). All are computed on the CPU apart from the text tower, and none has
a gradient. Text towers are loaded when they are first needed, so that what is wrong with the data is told before.
Paper: Cho et al. 2022. The weights of the released code are kept, CLIP-S 2 and the others 1: its author says that the
published numbers are of these, not of the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from evaluation.captions.cider import CiderD, DocumentFrequency
from evaluation.captions.clip_score import harmonic_mean, reference_similarity
from models.clip_s import PREFIX, clip_s
from pairs.annotations import END_WORD
from training.captioning.data import CaptionBatch, LabelledGrids
from training.captioning.grammar_head import load_head
from training.captioning.reward_text import FrozenText, check_width, frozen_text
from utils.errors import UserError, check_number, check_option, check_text, given_path


@dataclass(frozen=True)
class RewardImages:
    """What rewards know of b images that have `captions_each` captions, told image by image.

    References are words with blanks between; those of `longest_reference` words may have been cut.
    """

    references: list[list[str]]
    embeddings: Float[Tensor, "b e"] | None  # of length 1
    longest_reference: int
    captions_each: int = 1

    @classmethod
    def of(cls, batch: CaptionBatch, captions_each: int = 1) -> "RewardImages":
        return cls(batch.references, batch.embeddings, batch.labels.shape[-1] - 2, captions_each)

    def need_embeddings(self) -> Float[np.ndarray, "n e"]:
        """One a caption."""
        if self.embeddings is None:
            raise UserError("embeddings_path: expected the reward model's image embeddings, found nothing")
        return self.embeddings.repeat_interleave(self.captions_each, dim=0).numpy()


class Reward(Protocol):
    def prepare(self, source: LabelledGrids, device: torch.device) -> None:
        """Called once, before the first caption: count words, move weights."""
        ...

    def __call__(self, images: RewardImages, captions: list[str]) -> Float[Tensor, " n"]: ...


class RewardSum:
    """Rewards by name, each times its weight; those `without_baseline` are not compared with other captions'."""

    def __init__(
        self, *, rewards: Mapping[str, Reward], weights: Mapping[str, float], without_baseline: Sequence[str] = ()
    ) -> None:
        if set(rewards) != set(weights) or not rewards:
            raise UserError(
                f"reward: expected a weight for each; rewards: {', '.join(rewards)}; weights: {', '.join(weights)}"
            )
        for name, weight in weights.items():
            check_number(f"reward.weights.{name}", weight)
        for name in without_baseline:
            check_option("reward.without_baseline", name, rewards)
        self.rewards, self.weights, self.without_baseline = dict(rewards), dict(weights), list(without_baseline)

    def prepare(self, source: LabelledGrids, device: torch.device) -> None:
        for reward in self.rewards.values():
            reward.prepare(source, device)

    def parts(self, images: RewardImages, captions: list[str]) -> dict[str, Float[Tensor, " n"]]:
        """Without their weights."""
        return {name: reward(images, captions) for name, reward in self.rewards.items()}

    def total(self, parts: Mapping[str, Float[Tensor, " n"]]) -> Float[Tensor, " n"]:
        return torch.stack([self.weights[name] * part for name, part in parts.items()]).sum(dim=0)

    def __call__(self, images: RewardImages, captions: list[str]) -> Float[Tensor, " n"]:
        return self.total(self.parts(images, captions))


class CiderReward:
    """CIDEr-D (0..10) with the training captions' document frequencies.

    The end counts as a word: a caption that ends is better than one that was cut off. Frequencies are counted at the
    start, or read from the file that `--config-name caption_labels` wrote.
    """

    def __init__(self, *, document_frequency_path: str | None = None, max_words: int = 20) -> None:
        self.max_words = max_words
        self._path = document_frequency_path
        self._scorer: CiderD | None = None

    def prepare(self, source: LabelledGrids, device: torch.device) -> None:
        if self._path:
            frequency = DocumentFrequency.load(Path(self._path).expanduser())
            if (END_WORD,) not in frequency.counts:
                raise UserError(
                    f"document_frequency_path={self._path}: counted without the end of captions, {END_WORD}"
                )
        else:
            frequency = DocumentFrequency.build(
                [[*caption.split(" "), END_WORD] for caption in captions] for captions in source.all_references()
            )
        self._scorer = CiderD(frequency)

    def __call__(self, images: RewardImages, captions: list[str]) -> Float[Tensor, " n"]:
        assert self._scorer is not None, "prepare was not called"
        words = [ended(caption.split(), self.max_words) for caption in captions]
        limit = images.longest_reference
        references = [[ended(reference.split(" "), limit) for reference in own] for own in images.references]
        scores = self._scorer.score(words, references, captions_each=images.captions_each)
        return torch.from_numpy(scores).float()


def ended(words: Sequence[str], limit: int) -> list[str]:
    """With the end, unless the caption was cut at `limit` words."""
    return [*words, END_WORD] if len(words) < limit else list(words)


class ClipSReward:
    """CLIP-S, 2.5 max(cos, 0): how near the caption is to its image.

    `model_name`, of the family `feature_type`, is the model that the embeddings come from, or the grammar's file with
    the text tower tuned to it.
    """

    def __init__(self, *, model_name: str, prefix: str = PREFIX, feature_type: str = "clip") -> None:
        check_text("clip_prefix", prefix)
        self.model_name, self.feature_type, self._prefix = model_name, feature_type, prefix

    @cached_property
    def _text(self) -> FrozenText:
        return frozen_text(self.model_name, self._prefix, self.feature_type)

    def prepare(self, source: LabelledGrids, device: torch.device) -> None:
        self._text.to(device)

    def __call__(self, images: RewardImages, captions: list[str]) -> Float[Tensor, " n"]:
        image, text = images.need_embeddings(), self._text.embeddings(captions)
        check_width(image, text, self.model_name)
        return torch.from_numpy(clip_s(image, text))


class RefClipSReward:
    """RefCLIP-S: the harmonic mean of CLIP-S and the similarity to the nearest reference.

    As Hessel et al. have it; `reference_scale=2.5` as in the captioner's original code.
    """

    def __init__(
        self, *, model_name: str, prefix: str = PREFIX, reference_scale: float = 1.0, feature_type: str = "clip"
    ) -> None:
        check_text("clip_prefix", prefix)
        check_number("reference_scale", reference_scale, least=0)
        self.reference_scale = reference_scale
        self._name, self._prefix, self._feature_type = model_name, prefix, feature_type

    @cached_property
    def _text(self) -> FrozenText:
        return frozen_text(self._name, self._prefix, self._feature_type)

    def prepare(self, source: LabelledGrids, device: torch.device) -> None:
        self._text.to(device)

    def __call__(self, images: RewardImages, captions: list[str]) -> Float[Tensor, " n"]:
        lists = [own for own in images.references for _ in range(images.captions_each)]  # one a caption
        references = [reference for own in lists for reference in own]
        image, texts = images.need_embeddings(), self._text.embeddings([*captions, *references])
        check_width(image, texts, self._name)
        own, others = texts[: len(captions)], texts[len(captions) :]
        caption_of = np.repeat(np.arange(len(captions)), list(map(len, lists)))
        near = reference_similarity(own, others, caption_of)
        return torch.from_numpy(harmonic_mean(clip_s(image, own), self.reference_scale * near))


class GrammarReward:
    """How probable it is that the caption is grammatical, by a text tower and head of `--config-name caption_grammar`.

    Both have learned captions behind the prefix that they are to see here.
    """

    def __init__(self, *, grammar_path: str | None, prefix: str = PREFIX) -> None:
        path = given_path("grammar_path", grammar_path, "grammar.pt of --config-name caption_grammar")
        self._head, learned_prefix = load_head(path)
        if learned_prefix != prefix:
            raise UserError(
                f"{path}: learned with prefix {learned_prefix!r}, asked for {prefix!r}; give clip_prefix so"
            )
        self._name, self._prefix = str(grammar_path), prefix

    @cached_property
    def _text(self) -> FrozenText:
        return frozen_text(self._name, self._prefix)

    def prepare(self, source: LabelledGrids, device: torch.device) -> None:
        self._text.to(device)
        self._head.to(device)

    @torch.no_grad()
    def __call__(self, images: RewardImages, captions: list[str]) -> Float[Tensor, " n"]:
        return self._head(self._text.pooled(captions)).softmax(dim=1)[:, 1].cpu()
