"""Training throughput of Mixer against transformer towers: `PYTHONPATH=. python benchmarks/towers.py [--rounds 5]`.

The towers of experiment=compare_*: forward, loss, backward and update on random pairs, in turn; median rates and ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from models.clip.mixer import TextMixer, VisionMixer
from models.clip.model import CLIP
from models.clip.text import TextTransformer
from models.clip.vision import VisionTransformer
from training.contrastive.losses import ClipLoss

SIZES = {"resolution": 32, "patch_size": 4, "width": 128, "layers": 4, "embed_dim": 128}
TEXT_SIZES = {"context_length": 48, "width": 64, "layers": 2, "embed_dim": 128}


def models() -> dict[str, CLIP]:
    transformer = CLIP(VisionTransformer(heads=2, **SIZES), TextTransformer(heads=1, **TEXT_SIZES))
    mixer = CLIP(VisionMixer(**SIZES), TextMixer(vocab_size=49408, **TEXT_SIZES))
    for model in (transformer, mixer):
        model.initialize()
    return {"transformer": transformer, "mixer": mixer}


def stepper(model: CLIP, batch: int) -> Callable[[], None]:
    loss, update = ClipLoss(), torch.optim.AdamW(model.parameters())
    images, ids = torch.randn(batch, 3, 32, 32), torch.arange(batch)
    tokens = torch.randint(1, 49405, (batch, 48), dtype=torch.int)
    tokens[:, 20], tokens[:, 21:] = 49407, 0

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            image_features, text_features = model.encode_image(images), model.encode_text(tokens)
        loss(image_features.float(), text_features.float(), model.logit_scale, ids).backward()
        update.step()
        update.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    towers = models()
    steps = {name: stepper(model, arguments.batch) for name, model in towers.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(3):
                step()
            seconds[name].append((time.perf_counter() - start) / 3)
    print("| towers | parameters | pairs/s | ratio |\n| --- | --- | --- | --- |")
    for name, model in towers.items():
        rate = arguments.batch / statistics.median(seconds[name])
        ratio = statistics.median(t / s for t, s in zip(seconds["transformer"], seconds[name], strict=True))
        print(f"| {name} | {sum(p.numel() for p in model.parameters()):,} | {rate:.0f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
