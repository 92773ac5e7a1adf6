"""Runs of a captioner on twelve toy images."""

from dataclasses import fields
from functools import partial
from pathlib import Path

import torch

from models.captioner.options import Decoding
from tests.helpers.toy_captions import FEATURES, Says, toy_captioner, toy_data, toy_plan
from training.captioning.mle import Likelihood
from training.captioning.rewards import RewardSum
from training.captioning.scst import SelfCritical
from training.captioning.train_captioner import train
from training.fit import TrainingPlan


class FakeClipS:
    """As many points as words."""

    model_name = "tiny"

    def prepare(self, source, device) -> None:
        pass

    def __call__(self, images, captions):
        return torch.tensor([float(len(caption.split())) for caption in captions])


def self_critical(word: str = "star", **changed) -> SelfCritical:
    reward = RewardSum(rewards={"says": Says(word)}, weights={"says": 1.0})
    return SelfCritical(reward=reward, max_words=8, samples_per_image=2, **changed)


def arguments(folder: Path, **changed) -> dict:
    """Of `train`; what is changed may be its own or the plan's."""
    of_plan = {field.name for field in fields(TrainingPlan)}
    planned = {key: value for key, value in changed.items() if key in of_plan}
    own = {key: value for key, value in changed.items() if key not in of_plan}
    defaults = {
        "data": toy_data,
        "captioner": partial(toy_captioner, dropout=0.2),
        "objective": Likelihood(),
        "clip_s": FakeClipS,
        "features": FEATURES,
        "decoding": Decoding(max_words=8),
    }
    return defaults | own | {"plan": toy_plan(folder, **planned)}


def first_phase(folder: Path) -> Path:
    """A captioner that knows its images a little."""
    assert train(**arguments(folder, epochs=8)) == 0
    return folder / "last.pt"


def likelihood_run(folder: Path, *, batch_size: int) -> int:
    """Without dropout, which each process draws for itself."""
    changed = {"captioner": toy_captioner, "optimizer": partial(torch.optim.SGD, lr=0.1)}
    return train(**arguments(folder, max_steps=3, batch_size=batch_size, **changed))


def self_critical_run(folder: Path, start_from: str) -> int:
    return train(**arguments(folder, max_steps=2, batch_size=3, objective=self_critical(), start_from=start_from))
