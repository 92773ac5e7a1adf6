"""Whole runs of `main.py` against v-iashin/video_features on the same videos, weights and machine:

    python benchmarks/pipeline.py --peer VIDEO_FEATURES_CHECKOUT --peer-python PYTHON --weights STATE_DICT.pt VIDEO...

Both programs run in turn, `--rounds` times, at native rate and re-timed; the table gives medians and the median ratio.
The peer gets `--weights` as its `custom` checkpoint. Without `--peer`, only ours is timed.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
SETTINGS = {"every frame": [], "extraction_fps=5": ["extraction_fps=5"], "extraction_fps=1": ["extraction_fps=1"]}


def run(python: str, folder: Path, arguments: list[str]) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        places = [f"output_path={scratch}/out", f"tmp_path={scratch}/tmp"]
        start = time.monotonic()
        result = subprocess.run(
            [python, "main.py", *arguments, *places], cwd=folder, capture_output=True, text=True, check=False
        )
        elapsed = time.monotonic() - start
        if result.returncode or not list(Path(scratch).rglob("*_clip.npy")):
            raise SystemExit(f"{folder}: {result.stdout[-500:]}\n{result.stderr[-2000:]}")
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--peer-python", default=sys.executable)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("videos", nargs="+", type=Path)
    options = parser.parse_args()
    videos = f"[{','.join(str(path.resolve()) for path in options.videos)}]"
    common = ["feature_type=clip", "device=cpu", "on_extraction=save_numpy", f"batch_size={options.batch}"]
    common += [f"video_paths={videos}"]
    if options.peer:
        target = options.peer / "models/clip/checkpoints/CLIP-custom.pth"
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(options.weights, target)
    print("| run | this project, s | video_features, s | ratio |\n| --- | --- | --- | --- |")
    for name, extra in SETTINGS.items():
        ours, theirs = [], []
        for _ in range(options.rounds):
            ours.append(run(sys.executable, REPO, [*common, *extra, f"model_name={options.weights.resolve()}"]))
            if options.peer:
                theirs.append(run(options.peer_python, options.peer, [*common, *extra, "model_name=custom"]))
        line = f"| {name} | {statistics.median(ours):.1f} |"
        if theirs:
            ratios = [peer / own for peer, own in zip(theirs, ours, strict=True)]
            line += f" {statistics.median(theirs):.1f} | {statistics.median(ratios):.2f} |"
        print(line, flush=True)


if __name__ == "__main__":
    main()
