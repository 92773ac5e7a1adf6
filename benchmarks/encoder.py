"""Throughput of the image encoder by precision: `python benchmarks/encoder.py [--model ViT-B/32] [--batch 32]`.

Random weights (speed does not depend on them). Every way runs in turn, `--rounds` times over, and the table gives the
median of the ratios to PyTorch's own float32 linears within a round: machines drift, ratios hold.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from extraction.encoder import Encoder
from extraction.preprocess import normalize
from models.clip.model import CLIP
from tests.helpers.architectures import ARCHITECTURES


def seconds(run: Callable[[], object], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - start) / repeat


def ways(model: CLIP, pixels: Tensor, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    def eager() -> Tensor:
        with torch.inference_mode():
            return model.encode_image(normalize(pixels.to(device))).float().cpu()

    model.to(device)
    found: dict[str, Callable[[], Tensor]] = {"fp32, PyTorch's linears": eager}
    for precision in ("fp32", "bf16", "int8") if device.type == "cpu" else ("fp32", "bf16", "fp16"):
        encoder = Encoder(copy.deepcopy(model), device=device, precision=precision)
        found[precision] = lambda encoder=encoder: torch.from_numpy(encoder.images(pixels))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="ViT-B/32", choices=ARCHITECTURES)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = ARCHITECTURES[arguments.model].build().eval()
    model.initialize()
    n = ARCHITECTURES[arguments.model].resolution
    pixels = torch.randint(0, 256, (arguments.batch, 3, n, n), dtype=torch.uint8)
    runs = ways(model, pixels, torch.device(arguments.device))
    reference = runs["fp32, PyTorch's linears"]()
    cosines = {name: F.cosine_similarity(run(), reference).min().item() for name, run in runs.items()}
    rounds = [{name: seconds(run, 2) for name, run in runs.items()} for _ in range(arguments.rounds)]
    print("| precision | images/s | ratio | cosine, smallest |\n| --- | --- | --- | --- |")
    for name in runs:
        rate = statistics.median(arguments.batch / one[name] for one in rounds)
        ratio = statistics.median(one["fp32, PyTorch's linears"] / one[name] for one in rounds)
        print(f"| {name} | {rate:.1f} | {ratio:.2f} | {cosines[name]:.6f} |")


if __name__ == "__main__":
    main()
