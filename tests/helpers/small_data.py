"""Data sets of a few coloured squares, and a CLIP model that learns them in seconds."""

import csv
import io
import json
import tarfile
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from models.clip.text import TextTransformer
from models.clip.vision import ModifiedResNet, VisionTransformer
from pairs.augment import Augment
from pairs.batches import Pairs, PairSplits
from training.contrastive.losses import ClipLoss
from training.fit import TrainingPlan
from training.optimization import adamw
from training.schedules import cosine

COLOURS = ["red", "green", "blue", "white", "black", "yellow", "cyan", "magenta"]
_RGB = [(255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (255, 255, 0), (0, 255, 255), (255, 0, 255)]


def square(number: int, size: int = 40) -> Image.Image:
    """One colour with a little noise, so that no two images are the same."""
    noise = np.random.default_rng(number).integers(-10, 10, (size, size, 3))
    return Image.fromarray((np.array(_RGB[number % len(_RGB)]) + noise).clip(0, 255).astype(np.uint8))


def caption(number: int) -> str:
    return f"a {COLOURS[number % len(COLOURS)]} square"


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    square(number).save(buffer, "JPEG")
    return buffer.getvalue()


def write_images(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:03}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(jpeg(number))
    return names


def write_csv(folder: Path, *, count: int = 10, captions_each: int = 2) -> Path:
    """`captions.csv` beside a folder `images`."""
    names = write_images(folder / "images", count)
    with (folder / "captions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", "id"])
        for number, name in enumerate(names):
            for k in range(captions_each):
                writer.writerow([name, f"{caption(number)}, number {k}", number])
    return folder / "captions.csv"


def write_shard(path: Path, numbers: range, *, broken: tuple[int, ...] = ()) -> None:
    """As img2dataset does: jpg, txt and json of a sample one after another, and the counts beside the shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            image = b"no image" if number in broken else jpeg(number)
            for ending, data in (
                ("jpg", image),
                ("txt", caption(number).encode()),
                ("json", json.dumps({"top_caption": f"top {number}"}).encode()),
            ):
                member = tarfile.TarInfo(f"{number:09}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    path.with_name(f"{path.stem}_stats.json").write_text(json.dumps({"successes": len(numbers)}))


def eight_pairs(augment: Augment | None = None, captions_each: int = 2) -> PairSplits:
    """Eight colours in memory, held out and trained on alike."""
    images = torch.stack([torch.from_numpy(np.array(square(n, 32))).permute(2, 0, 1) for n in range(8)])
    captions = [[caption(n), f"something {COLOURS[n]}"][:captions_each] for n in range(8)]
    pairs = Pairs(images, np.arange(8), captions, np.arange(8), augment or Augment(crop="center"))
    return PairSplits(pairs, {"squares": pairs})


VISION = partial(VisionTransformer, resolution=32, patch_size=16, width=32, layers=1, heads=1, embed_dim=16)
RESNET = partial(ModifiedResNet, resolution=32, layers=(1, 1, 1, 1), width=8, heads=4, embed_dim=16)
TEXT = partial(TextTransformer, context_length=16, width=32, layers=1, heads=1, embed_dim=16)


class Dropped(nn.Module):
    """A text tower with dropout, so that the random state of the process matters."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.dropout = TEXT(), nn.Dropout(0.1)
        self.context_length, self.output_dim = self.inner.context_length, self.inner.output_dim
        self.vocab_size = self.inner.vocab_size
        self.arguments = self.inner.arguments
        self.tokenize, self.fitted = self.inner.tokenize, self.inner.fitted
        self.initialize = self.inner.initialize

    @property
    def dtype(self) -> torch.dtype:
        return self.inner.dtype

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.inner(tokens))


def plan(folder: Path, **changed) -> TrainingPlan:
    """For a run of seconds."""
    defaults = {
        "output_path": str(folder),
        "optimizer": partial(adamw, lr=3e-3, weight_decay=0.01),
        "schedule": partial(cosine, warmup_steps=2),
        "epochs": 4,
        "batch_size": 4,
        "device": "cpu",
    }
    return TrainingPlan(**(defaults | changed))


def arguments(folder: Path, **changed) -> dict:
    """Of `train`, for the eight pairs; what is changed may be its own or the plan's."""
    of_plan = {field.name for field in fields(TrainingPlan)}
    planned = {key: value for key, value in changed.items() if key in of_plan}
    own = {key: value for key, value in changed.items() if key not in of_plan}
    defaults = {"data": eight_pairs(), "vision": VISION, "text": TEXT, "loss": ClipLoss()}
    return defaults | own | {"plan": plan(folder, **planned)}
