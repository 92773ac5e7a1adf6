"""Images end to end against the encoder alone: `PYTHONPATH=. python benchmarks/images.py [--images 256]`.

JPEG files of 640x480 pixels are read, decoded, resized, encoded and saved (`save_numpy`) by the pipeline; the encoder
alone gets as many batches of prepared pixels. Both in turn, `--rounds` times; start-up and model loading are outside.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as main.py does

import torch
from PIL import Image

from extraction.extractor import FeatureExtractor
from extraction.pipeline import extract
from media.inputs import find_inputs
from models.clip import ExtractCLIP
from store.forms import SaveNumpy
from tests.helpers.architectures import ARCHITECTURES

SAMPLE = Path(__file__).resolve().parents[1] / "sample"
SIZE = (640, 480)


def write_images(folder: Path, number: int) -> None:
    """Crops of the sample photos, all different, quality 90."""
    photos = [Image.open(path).convert("RGB").resize((800, 600)) for path in sorted(SAMPLE.glob("*.jpg"))]
    for k in range(number):
        left, top = 7 * k % 160, 5 * k % 120
        crop = photos[k % len(photos)].crop((left, top, left + SIZE[0], top + SIZE[1]))
        crop.save(folder / f"{k:05}.jpg", quality=90)


def write_weights(path: Path, name: str) -> Path:
    torch.manual_seed(0)
    model = ARCHITECTURES[name].build()
    model.initialize()
    torch.save(model.state_dict(), path)
    return path


def whole_run(extractor: FeatureExtractor, images: Path) -> float:
    with tempfile.TemporaryDirectory() as output:
        started = time.monotonic()
        inputs = find_inputs(image_paths=str(images))
        if extract(inputs=inputs, extractor=extractor, on_extraction=[SaveNumpy()], output_path=output):
            raise SystemExit("a run failed")
        return time.monotonic() - started


def encoder_alone(extractor: FeatureExtractor, pixels: list[torch.Tensor], number: int) -> float:
    started = time.monotonic()
    for _ in range(number // len(pixels)):
        extractor.images.encode(pixels)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ViT-B/32", choices=ARCHITECTURES)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        folder.mkdir()
        write_images(folder, options.images)
        weights = write_weights(Path(scratch) / "weights.pt", options.model)
        extractor = ExtractCLIP(
            model_name=str(weights), device="cpu", precision=options.precision, batch_size=options.batch
        )
        n = ARCHITECTURES[options.model].resolution
        pixels = list(torch.randint(0, 256, (options.batch, 3, n, n), dtype=torch.uint8))
        encoder_alone(extractor, pixels, options.batch)
        rounds = [
            (whole_run(extractor, folder), encoder_alone(extractor, pixels, options.images))
            for _ in range(options.rounds)
        ]
    whole, alone = (options.images / statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(encoder / run for run, encoder in rounds)
    print("| precision | encoder alone, images/s | end to end, images/s | ratio |\n| --- | --- | --- | --- |")
    print(f"| {options.precision} | {alone:.1f} | {whole:.1f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
