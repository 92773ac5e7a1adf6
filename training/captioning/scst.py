"""Self-critical sequence training: sampled captions become likelier the better they are than a baseline (phase 2).

Papers: Rennie et al. 2017; Cho et al. 2022, section 3.2. The original goes on from the MLE run with its epoch counter
and its Adam moments; here only the weights are taken over, the optimizer is fresh and epochs count from 0.
"""

from dataclasses import replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.captioner.decoding import decode
from models.captioner.model import Captioner
from models.captioner.options import Decoding
from models.captioner.vocabulary import Vocabulary
from training.captioning.data import CaptionBatch, CaptionData, parts
from training.captioning.rewards import RewardImages, RewardSum
from training.compute import Compute
from training.distributed import sum_of_all, world_size
from training.task import Values
from utils.errors import UserError, check_count, check_option

Baseline = Literal["greedy", "leave_one_out"]


class SelfCritical:
    """Policy gradient over `samples_per_image` sampled captions.

    The baseline of a sample is the reward of the same image's greedy caption, without dropout, or the mean reward of
    the image's other samples. `upstream_compat`: captions may say UNK, as in the original.
    """

    starts_from_weights = True

    def __init__(
        self,
        *,
        reward: RewardSum,
        baseline: Baseline = "greedy",
        samples_per_image: int = 5,
        max_words: int = 20,
        upstream_compat: bool = False,
    ) -> None:
        check_option("baseline", baseline, get_args(Baseline))
        check_count("samples_per_image", samples_per_image)
        if baseline == "leave_one_out" and samples_per_image < 2:
            raise UserError("baseline=leave_one_out: expected samples_per_image=2 or more, found 1")
        self.reward, self.rewards, self.baseline = reward, reward.rewards, baseline
        self._greedy = Decoding(method="greedy", max_words=max_words, upstream_compat=upstream_compat)
        self._sampling = replace(self._greedy, method="sample", samples_per_image=samples_per_image)
        self._vocabulary: Vocabulary | None = None
        self.settings: dict[str, Any] = {
            "objective": "self-critical",
            "reward": dict(reward.weights),
            "baseline": baseline,
            "samples_per_image": samples_per_image,
        }
        if reward.without_baseline:
            self.settings["without_baseline"] = reward.without_baseline

    def prepare(self, data: CaptionData, device: torch.device) -> None:
        self._vocabulary = data.vocabulary
        self.reward.prepare(data.train, device)

    def backward(self, model: Captioner, batch: CaptionBatch, compute: Compute, accumulation: int = 1) -> Values:
        """The divisor, the number of words drawn, is known at the end only: the gradients are then set right."""
        longest = len(batch) * self._sampling.samples_per_image * self._sampling.max_words
        words, loss = torch.zeros((), device=compute.device), torch.zeros((), device=compute.device)
        recorded: list[dict[str, Tensor]] = []
        for part in parts(batch, accumulation, compute.device):
            summed, mask, values = self._loss(model, part, compute)
            compute.scaler.scale(summed / longest).backward()
            words, loss = words + mask.sum(), loss + summed.detach()
            recorded.append(values)
        words = sum_of_all(words)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(float(longest * world_size() / words))
        means: Values = {key: torch.cat([part[key] for part in recorded]).mean() for key in recorded[0]}
        return {"loss": float(loss * world_size() / words)} | means

    def _loss(
        self, model: Captioner, batch: CaptionBatch, compute: Compute
    ) -> tuple[Float[Tensor, ""], Bool[Tensor, "m t"], dict[str, Tensor]]:
        """The summed loss, which words it is of, and what to record."""
        assert self._vocabulary is not None, "prepare was not called"
        model.train()
        with compute.autocast():
            sampled = decode(
                model, batch.grids, self._sampling, self._vocabulary, grid_mask=batch.grid_mask, with_grad=True
            )
        n = self._sampling.samples_per_image
        captions = self._vocabulary.sentences(sampled.tokens)
        if self.baseline == "greedy":
            captions = interleaved(captions, self._greedy_captions(model, batch, compute), n)
        found = self.reward.parts(RewardImages.of(batch, len(captions) // len(batch)), captions)
        rewards = {name: part.view(len(batch), -1) for name, part in found.items()}
        advantage = torch.stack([self._advantage(name, part) for name, part in rewards.items()]).sum(dim=0).flatten()
        recorded = {f"reward/{name}": part[:, :n].flatten() for name, part in rewards.items()}
        recorded |= {"advantage": advantage, "words": sampled.mask.sum(dim=1).float().cpu()}
        return policy_loss(sampled.log_probs, sampled.mask, advantage.to(compute.device)), sampled.mask, recorded

    def _advantage(self, name: str, rewards: Float[Tensor, "b m"]) -> Float[Tensor, "b n"]:
        """Weighted, of the n samples, behind which `rewards` may have the greedy caption's."""
        n = self._sampling.samples_per_image
        own = rewards[:, :n]
        if name not in self.reward.without_baseline:
            own = advantages(own, rewards[:, n:] if self.baseline == "greedy" else None)
        return self.reward.weights[name] * own

    def _greedy_captions(self, model: Captioner, batch: CaptionBatch, compute: Compute) -> list[str]:
        assert self._vocabulary is not None
        model.eval()
        with compute.autocast():
            greedy = decode(model, batch.grids, self._greedy, self._vocabulary, grid_mask=batch.grid_mask)
        model.train()
        return self._vocabulary.sentences(greedy.tokens)


def interleaved(samples: list[str], greedy: list[str], per_image: int) -> list[str]:
    """Image by image: its samples, then its greedy caption. One call then judges all captions of an image."""
    rows = []
    for i, caption in enumerate(greedy):
        rows += [*samples[i * per_image : (i + 1) * per_image], caption]
    return rows


def advantages(rewards: Float[Tensor, "b n"], greedy: Float[Tensor, "b 1"] | None) -> Float[Tensor, "b n"]:
    """Rewards less those of the greedy caption, or less the mean of the image's other samples."""
    if greedy is not None:
        return rewards - greedy
    n = rewards.shape[1]
    return rewards - (rewards.sum(dim=1, keepdim=True) - rewards) / (n - 1)


def policy_loss(
    log_probs: Float[Tensor, "m t"], mask: Bool[Tensor, "m t"], advantage: Float[Tensor, " m"]
) -> Float[Tensor, ""]:
    """-sum of A log p over the words up to the end, and the end: its gradient is REINFORCE's (Williams 1992)."""
    return -(log_probs * mask * advantage.unsqueeze(1)).sum()
