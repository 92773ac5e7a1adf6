"""Twelve images of a colour and a shape, whose features say so, and a captioner that learns them in seconds."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.captioner.model import Captioner
from pairs.labels import make_labels, make_vocabulary
from tests.helpers.caption_files import annotated
from tests.helpers.small_data import plan
from training.captioning.data import CaptionData, LabelledGrids
from training.captioning.rewards import RewardImages
from training.fit import TrainingPlan
from training.optimization import adamw
from training.schedules import constant

COLOURS, SHAPES = ["red", "green", "blue", "white"], ["square", "circle", "star"]
FEATURES = {"model_name": "tiny", "resolution": 64, "resize": "squash", "weights_sha256": "0" * 64}


def toy_data(captions_per_image: int = 2, *, embeddings: bool = True) -> CaptionData:
    """Trained on and held out alike."""
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    texts = [[f"a {colour} {shape}", f"one {shape} that is {colour}"] for colour, shape in pairs]
    images = [annotated(i, own) for i, own in enumerate(texts)]
    labels = make_labels(images, make_vocabulary(images, images, threshold=0), max_length=6)
    codes = np.eye(len(COLOURS) + len(SHAPES), dtype=np.float32)
    grids, vectors = {}, {}
    for i, (colour, shape) in enumerate(pairs):
        rows = codes[[COLOURS.index(colour), len(COLOURS) + SHAPES.index(shape)]]
        grids[str(i)], vectors[str(i)] = rows, rows.sum(axis=0) / np.sqrt(2)
    source = LabelledGrids(labels, grids, vectors if embeddings else None, labels.known_captions, captions_per_image)
    return CaptionData(source, source, labels.vocabulary)


def toy_captioner(vocab_size: int, grid_width: int, *, dropout: float = 0.0, max_words: int = 8) -> Captioner:
    sizes = {"width": 32, "layers": 1, "heads": 2, "hidden": 64, "dropout": dropout, "grid_dropout": dropout}
    return Captioner(vocab_size=vocab_size, grid_width=grid_width, max_words=max_words, **sizes)


def fresh_captioner(data: CaptionData, *, seed: int = 0, **changed) -> Captioner:
    torch.manual_seed(seed)
    model = toy_captioner(len(data.vocabulary), len(COLOURS) + len(SHAPES), **changed)
    model.initialize()
    return model


def toy_plan(folder: Path, **changed) -> TrainingPlan:
    defaults = {
        "optimizer": partial(adamw, lr=5e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
        "schedule": constant,
        "epochs": 2,
        "batch_size": 6,
    }
    return plan(folder, **(defaults | changed))


class Says:
    """A reward for words, each time one is said."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.calls = 0

    def prepare(self, source, device) -> None:
        pass

    def __call__(self, images: RewardImages, captions: list[str]) -> Tensor:
        self.calls += 1
        assert len(images.references) * images.captions_each == len(captions)
        return torch.tensor([float(sum(word in self.words for word in caption.split())) for caption in captions])
