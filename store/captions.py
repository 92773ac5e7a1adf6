"""What happens to finished captions: options of `on_caption`. Rows are `Features.predictions` with a `caption`."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from store.forms import NewFile
from utils.errors import MediaError
from utils.types import Features


class PrintCaptions:
    """One line a caption: the file, for videos the time, the caption, its CLIP-S."""

    def show(self, features: Features) -> None:
        tqdm.write("\n".join(_lines(features)), file=sys.stdout)


class SaveCaptions:
    """`<item>.txt` with a caption a line; for videos and animations subtitles, `<item>.vtt`.

    All of it with times and CLIP-S stands in `<item>_predictions.json`.
    """

    name = "captions"

    def write(self, features: Features) -> Iterator[NewFile]:
        lines = "".join(f"{row['caption']}\n" for row in features.predictions)
        yield NewFile(".txt", lambda file: file.write(lines.encode()))
        if "timestamps_ms" in features.arrays:
            yield NewFile(".vtt", lambda file: file.write(web_vtt(features).encode()))

    def read(self, path: Path, facts: dict[str, Any]) -> dict[str, np.ndarray]:
        raise MediaError(f"{path}: captions, which hold no features that could be saved in another form")


def _lines(features: Features) -> Iterator[str]:
    path, timed = features.item.path, "timestamps_ms" in features.arrays
    for row in features.predictions:
        clock = f"{_clock(row['timestamp_ms'])}  " if timed else ""
        yield f"{path}  {clock}{row['caption']}  (CLIP-S {row['clip_s']:.3f})"


def web_vtt(features: Features) -> str:
    """WebVTT subtitles. A caption is shown until the next one; equal ones in a row are one cue."""
    starts = [float(milliseconds) for milliseconds in features.arrays["timestamps_ms"]]
    steps = [after - before for before, after in itertools.pairwise(starts)]
    fps = float(features.arrays["fps"]) if "fps" in features.arrays else 0.0
    last = 1000 / fps if fps else steps[-1] if steps else 1000.0
    cues: list[tuple[float, float, str]] = []
    for row, (start, end) in enumerate(zip(starts, [*starts[1:], starts[-1] + last], strict=True)):
        caption = features.predictions[row]["caption"]
        if cues and cues[-1][2] == caption:
            cues[-1] = cues[-1][0], end, caption
        else:
            cues.append((start, end, caption))
    shown = [f"{_clock(start)} --> {_clock(end)}\n{_escaped(caption)}\n" for start, end, caption in cues]
    return "\n".join(["WEBVTT\n", *shown])


def _clock(milliseconds: float) -> str:
    """`00:01:02.040`; hours go on behind 23, days are unknown to subtitles."""
    seconds, rest = divmod(round(milliseconds), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{rest:03}"


def _escaped(text: str) -> str:
    """A cue's text may hold no arrow and no markup; an empty one is shown as a dash."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") or "-"
