"""What the bar says: an estimate of all rows, and who waits for whom."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from extraction.batching import Failed, encode_batches
from extraction.events import End, Prepared, ReadEvent, Start
from extraction.progress import Progress, watched
from utils.types import Item


def test_rows_are_estimated_from_headers_and_from_what_is_finished() -> None:
    left = [4]
    progress = Progress(lambda: left[0], "frames")

    def total_after(num_rows: int, expected_rows: Sequence[int]) -> float | None:
        progress.batch(num_rows, expected_rows, 0, 1)
        return progress._bar.total

    assert total_after(10, []) is None  # no header tells
    assert total_after(10, [100]) == 400
    progress.item(80)
    assert total_after(10, [120, 100]) == 400
    progress.item(0)  # failed: says nothing of the others
    assert total_after(10, [100]) == 360
    left[0] = 2  # the others were done before
    assert total_after(10, [100]) == 180
    assert total_after(200, [100]) == 250  # never fewer than there are
    progress.close()


@pytest.mark.parametrize(
    ("read_seconds", "encode_seconds", "limit"), [(0.02, 0.0, "decoding"), (0.0, 0.02, "encoding")]
)
def test_who_waits(read_seconds: float, encode_seconds: float, limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    def events() -> Iterator[tuple[Item, ReadEvent]]:
        for k in range(3):
            item = Item(Path(f"{k}.mp4"), str(k))
            time.sleep(read_seconds)
            yield item, Start(2)
            yield item, Prepared(0)
            yield item, ValueError("broken") if k == 1 else End()

    def encode(contents: Sequence[int]) -> dict[str, np.ndarray]:
        time.sleep(encode_seconds)
        return {"clip": np.array(contents)}

    with watched(lambda: 3, "frames") as progress:
        for result in encode_batches(events(), encode, 2, progress.batch):
            progress.item(0 if isinstance(result, Failed) else result.rows)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("3/3 files: 3 frames in 00:00, ")
    assert f" frames/s, waits for {limit} " in line
