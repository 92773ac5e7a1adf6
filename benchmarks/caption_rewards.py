"""What each reward does to a small captioner: `PYTHONPATH=. python benchmarks/caption_rewards.py --output RUNS`.

For every seed: maximum likelihood, a grammar tower, then from the same weights self-critical training with each of the
four rewards and, as control, as many steps of likelihood. All on drawn scenes with `tiny` as feature and reward model.
Rewards are those of sampled captions, which training raises; metrics are of greedy ones; both on held-out scenes, mean
and standard deviation over the seeds. The second table says by how much each reward rose in its own training, over
where it began and over the control, in standard errors of the differences of a seed. What is done is kept.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as main.py does

import torch
from PIL import Image, ImageDraw

from apps.contact_sheet import font, shortened
from evaluation.captions.score import score_captions
from models.captioner.checkpoint import load_captioner
from models.captioner.decoding import decode
from models.captioner.options import Decoding
from pairs.loading import Loading
from pairs.scenes.scenes import Scenes
from training.captioning.data import CaptionData
from training.captioning.rewards import CiderReward, ClipSReward, GrammarReward, RefClipSReward, RewardImages
from training.captioning.sources import scene_captions

REPO = Path(__file__).resolve().parents[1]
COUNT, RESOLUTION = 4000, 128
SHOWN_METRICS = (
    *("bleu_4", "rouge_l", "repeated_bigram_share", "repeated_trigram_share", "bad_ending_share"),
    *("mean_length_words", "distinct_words"),
)
WEIGHTS = {  # of the rewards, as in configs/reward/
    "cider": {"cider": 1.0},
    "clips": {"clips": 2.0},
    "cider_clips": {"clips": 2.0, "cider": 1.0},
    "clips_grammar": {"tuned_clips": 2.0, "grammar": 1.0},
}
SAMPLES = 5  # captions an image


def job(name: str, folder: Path, *arguments: str) -> Path:
    """Runs one job of main.py unless it has been done."""
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(REPO / "main.py"), "--config-name", name, f"output_path={folder}", "device=cpu"]
        with (folder / "log.txt").open("w") as log:
            subprocess.run([*command, *arguments], check=True, stdout=log, stderr=subprocess.STDOUT)
        (folder / "done").touch()
    return folder


def train_all(output: Path, seed: int, options: argparse.Namespace) -> dict[str, Path]:
    """The captioners by what they were trained for; `mle` is where the others start."""
    home = output / f"seed{seed}"
    cache = output / "features"
    data = ("caption_data=scenes", f"caption_data.count={COUNT}", f"caption_data.cache_path={cache}", f"seed={seed}")
    data += ("captioner=small",)
    steps = (f"max_steps={options.steps}", "epochs=100", "batch_size=50", f"optimizer.lr={options.lr}")
    mle = job(
        *("caption_train", home / "mle", *data, f"epochs={options.mle_epochs}", "batch_size=50", "optimizer.lr=1e-3")
    )
    grammar = job(
        *("caption_grammar", home / "grammar", "grammar_data=scenes", "model_name=tiny"),
        *(f"grammar_data.count={COUNT}", f"grammar_data.cache_path={cache}"),
        *(f"seed={seed}", f"grammar_data.seed={seed}", "batch_size=200", "max_steps=200", "optimizer.lr=1e-3"),
    )
    runs = {"mle": mle}
    start = f"start_from={mle / 'last.pt'}"
    runs["control"] = job("caption_train", home / "control", *data, *steps, "schedule=constant", start)
    for reward in options.rewards:
        objective = ("caption_phase=scst", f"reward={reward}", f"grammar_path={grammar / 'grammar.pt'}")
        objective += (f"baseline={options.baseline}",)
        runs[reward] = job("caption_train", home / reward, *data, *steps, *objective, start)
    return runs


@torch.no_grad()
def captions_of(folder: Path, grids: torch.Tensor, decoding: Decoding) -> list[str]:
    captioner = load_captioner(folder / "last.pt")
    generator = torch.Generator().manual_seed(0)
    decoded = decode(captioner.model, grids, decoding, captioner.vocabulary, generator=generator)
    return captioner.vocabulary.sentences(decoded.tokens)


def measure(runs: dict[str, Path], grammar: Path, data: CaptionData) -> tuple[dict, dict]:
    """(numbers, greedy captions) of every captioner on the held-out scenes; rewards are without their weights."""
    (whole,) = data.validation.in_order(Loading(len(data.validation)))
    images = RewardImages.of(whole, SAMPLES)
    rewards = {
        "cider": CiderReward(),
        "clips": ClipSReward(model_name="tiny"),
        "ref_clips": RefClipSReward(model_name="tiny"),
        "tuned_clips": ClipSReward(model_name=str(grammar)),
        "grammar": GrammarReward(grammar_path=str(grammar)),
    }
    for reward in rewards.values():
        reward.prepare(data.train, torch.device("cpu"))
    references = dict(enumerate(whole.references))
    numbers, captions = {}, {}
    for name, folder in runs.items():
        drawn = captions_of(folder, whole.grids, Decoding("sample", samples_per_image=SAMPLES, suppress_unknown=False))
        numbers[name] = {key: float(reward(images, drawn).mean()) for key, reward in rewards.items()}
        captions[name] = captions_of(folder, whole.grids, Decoding())
        scores = score_captions(dict(enumerate(captions[name])), references)
        beams = captions_of(folder, whole.grids, Decoding("beam"))
        numbers[name]["cider of greedy captions"] = float(scores["cider"])
        numbers[name]["cider of five beams"] = float(score_captions(dict(enumerate(beams)), references)["cider"])
        numbers[name] |= {key: float(scores[key]) for key in SHOWN_METRICS}
    return numbers, captions


def table(results: list[dict]) -> str:
    names, keys = list(results[0]), list(results[0]["mle"])
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for key in keys:
        cells = []
        for name in names:
            values = [result[name][key] for result in results]
            spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {key} | {' | '.join(cells)} |")
    return "\n".join(lines)


def rises(results: list[dict]) -> str:
    """Each reward, with its weights, under its own training: against where it began, and against the control."""
    lines = ["| trained for | began at | ended at | rise | standard errors | over control | standard errors |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, weights in WEIGHTS.items():
        if name not in results[0]:
            continue

        def total(result: dict, run: str, weights: dict[str, float] = weights) -> float:
            return sum(weight * result[run][key] for key, weight in weights.items())

        before, after = ([total(result, run) for result in results] for run in ("mle", name))
        cells = [f"{statistics.mean(before):.3f}", f"{statistics.mean(after):.3f}"]
        for base in ("mle", "control"):
            rise = [total(result, name) - total(result, base) for result in results]
            error = statistics.stdev(rise) / len(rise) ** 0.5 if len(rise) > 1 else float("nan")
            cells += [f"{statistics.mean(rise):+.3f}", f"{statistics.mean(rise) / error:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def sheet(captions: dict[str, list[str]], seed: int, number: int = 8) -> Image.Image:
    """Held-out scenes, one a row, with what every captioner says of them."""
    scenes = Scenes(200, seed=seed + 1, split="test", unique=True, max_groups=1)
    drawn = [scenes.scene(row) for row in range(number)]
    row_px, text_px, width_px = 132, 13, 1000
    image = Image.new("RGB", (width_px, number * row_px), "white")
    draw = ImageDraw.Draw(image)
    for row, scene in enumerate(drawn):
        top = row * row_px
        image.paste(Image.fromarray(scene.image).resize((128, 128), Image.Resampling.NEAREST), (2, top + 2))
        for line, (name, texts) in enumerate(captions.items()):
            text = f"{name}: {texts[row]}"
            draw.text((142, top + 6 + 20 * line), shortened(text, width_px - 150, text_px), "black", font(text_px))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--lr", default="1e-4")
    parser.add_argument("--mle-epochs", type=int, default=8)
    parser.add_argument("--rewards", nargs="+", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--baseline", choices=("leave_one_out", "greedy"), default="leave_one_out")
    options = parser.parse_args()
    results = []
    for seed in options.seeds:
        runs = train_all(options.output, seed, options)
        data = scene_captions(
            count=COUNT, seed=seed, resolution=RESOLUTION, cache_path=str(options.output / "features"), device="cpu"
        )
        numbers, captions = measure(runs, options.output / f"seed{seed}" / "grammar" / "grammar.pt", data)
        results.append(numbers)
        (options.output / f"seed{seed}" / "captions.json").write_text(json.dumps(captions, indent=1))
        (options.output / f"seed{seed}" / "numbers.json").write_text(json.dumps(numbers, indent=1))
        sheet(captions, seed).save(options.output / f"seed{seed}" / "captions.png")
        print(f"{len(results)} seeds\n\n{table(results)}\n\n{rises(results)}\n", flush=True)


if __name__ == "__main__":
    main()
