"""Peak memory of a long video against a short one: `python benchmarks/memory.py --model CHECKPOINT [--minutes 120]`.

Makes a one-minute video and, by repeating its packets, a long one; runs `main.py` at 1 fps over each and reports the
peak resident memory of the two processes and their ratio. Memory must not grow with the length of a video. Further
arguments are passed on: `features=grid on_extraction=[save_npz] extraction_fps=5`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

REPO = Path(__file__).resolve().parents[1]
FPS, WIDTH, HEIGHT = 25, 640, 360


def write_minute(path: Path) -> None:
    """A moving gradient with noise, H.264, key frame every 2 s."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(0).integers(0, 32, (HEIGHT, WIDTH, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", FPS, options={"preset": "ultrafast", "g": str(2 * FPS)})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(60 * FPS):
            picture = np.stack([columns + 3 * i, rows + 2 * i, rows + columns], axis=2) % 224 + noise
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())


def repeat_packets(source: Path, target: Path, times: int) -> None:
    with av.open(str(target), "w") as output:
        stream = None
        for repetition in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                shift = int(repetition * 60 / (video.time_base or Fraction(1)))
                for packet in container.demux(video):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = stream
                    output.mux(packet)


def run(video: Path, model: str, output: Path, options: list[str]) -> tuple[float, float]:
    """(peak MiB, seconds) of one run of main.py over `video` at 1 fps, unless the options say otherwise."""
    command = [sys.executable, str(REPO / "main.py"), f"model_name={model}", f"video_paths={video}", "extraction_fps=1"]
    command += ["device=cpu", "on_extraction=save_numpy", f"output_path={output}", *options]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"main.py failed on {video}")
    return usage.ru_maxrss / 1024, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "short.mp4", Path(folder) / "long.mp4"
        write_minute(short)
        repeat_packets(short, long, arguments.minutes)
        short_mib, short_seconds = run(short, arguments.model, Path(folder) / "out", arguments.options)
        long_mib, long_seconds = run(long, arguments.model, Path(folder) / "out", arguments.options)
        saved = sum(path.stat().st_size for path in (Path(folder) / "out").rglob("long*") if path.is_file())
    print(f"| 1 minute | {short_mib:.0f} MiB | {short_seconds:.1f} s |")
    print(
        f"| {arguments.minutes} minutes ({saved / 2**20:.0f} MiB saved) | {long_mib:.0f} MiB | {long_seconds:.1f} s |"
    )
    print(f"| ratio of the peaks | {long_mib / short_mib:.3f} | |")


if __name__ == "__main__":
    main()
