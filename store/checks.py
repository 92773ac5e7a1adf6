"""Whether the arrays of one result can be what they say: rows, times, values. Knows no files."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from store.record import Record

Kind = Literal[
    # What is wrong with a result, or with its files.
    "unreadable meta",
    "missing file",
    "damaged file",
    "wrong shape",
    "not finite",
    "wrong rows",
    "wrong times",
    "changed source",
    "wrong recount",
    "other weights",
    "other settings",
    "no meta file",
    "left over",
    # What may well be as it should.
    "unfinished",
    "few rows",
    "odd times",
    "constant",
    "same features",
    "same source",
    "no source",
]
WARNINGS: tuple[Kind, ...] = (
    *("unfinished", "few rows", "odd times", "constant", "same features", "same source", "no source"),
)
TIMES = ("timestamps_ms", "source_timestamps_ms")
_CHUNK_BYTES = 1 << 26
_EQUAL_MS = 0.01  # two times that are said to be the same


@dataclass(frozen=True)
class Finding:
    kind: Kind
    path: str  # the file that it is about
    text: str  # "clip: 3 of 24 values are nan or infinite, first in row 2"


Found = tuple[Kind, str]


def array_findings(
    arrays: Mapping[str, np.ndarray], record: Record, predictions: Sequence[Mapping[str, Any]] | None
) -> Iterator[Found]:
    """All that is wrong with the arrays of one form, as far as they tell, their record and its predictions."""
    counts = {key: len(array) for key, array in arrays.items() if array.ndim}
    for key, array in arrays.items():
        if not array.size:
            yield "wrong rows", f"{key} is empty, shape {array.shape}"
        elif bad := _not_finite(array):
            yield "not finite", f"{key}: {bad} of {array.size:,} values are nan or infinite"
        elif array is features_in(arrays) and _is_constant(array):
            yield "constant", f"{key}: all {array.size:,} values are {array.flat[0]:g}"
    if len(set(counts.values())) > 1:
        yield "wrong rows", f"arrays differ in their rows: {', '.join(f'{key} {n:,}' for key, n in counts.items())}"
        return
    rows = next(iter(counts.values()), len(predictions) if predictions is not None else None)  # captions: no arrays
    if rows:
        yield from _row_findings(rows, record, predictions)
        yield from _time_findings(arrays, record)


def features_in(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The first of them, as opposed to times and rates: floating-point, with rows."""
    found = (each for key, each in arrays.items() if key not in TIMES and each.ndim and each.dtype.kind == "f")
    return next(found, None)


def expected_rows(sampling: Mapping[str, Any], seconds: float | None, num_frames: int | None) -> float | None:
    """How many rows a video of this length has, by the rule that its settings name; None where that is unknown."""
    rule = sampling.get("rule")
    if rule == "Total":
        return sampling.get("num_rows")
    if rule == "AtFps":
        return None if seconds is None else seconds * float(Fraction(sampling["fps"]))
    return num_frames


def _not_finite(array: np.ndarray) -> int:
    """How many values; in parts, as a grid of hours may be larger than the memory."""
    if array.dtype.kind not in "fc":
        return 0
    rows = array.reshape(1, 1) if not array.ndim else array
    step = max(1, _CHUNK_BYTES // max(1, rows[:1].nbytes))
    parts = (rows[start : start + step] for start in range(0, len(rows), step))
    return sum(part.size - int(np.count_nonzero(np.isfinite(part))) for part in parts)


def _is_constant(array: np.ndarray) -> bool:
    first = array.flat[0]
    return array.size > 1 and bool((array[0] == first).all()) and bool((array == first).all())


def _row_findings(rows: int, record: Record, predictions: Sequence[Mapping[str, Any]] | None) -> Iterator[Found]:
    noted = record.provenance
    image, texts = noted.get("image"), noted.get("texts")
    said = {
        "its meta file says": noted.get("rows"),
        "predictions are of": len(predictions) if predictions is not None else None,
        "its texts are": len(texts) if texts else None,
        "its image has": image.get("frames") if isinstance(image, dict) else None,
    }
    for words, number in said.items():
        if isinstance(number, int) and number != rows:
            yield "wrong rows", f"{rows:,} rows, {words} {number:,}"
    video, sampling = noted.get("video"), record.settings.get("sampling")
    if not isinstance(video, dict) or not isinstance(sampling, dict):
        return
    expected = expected_rows(sampling, video.get("duration_seconds"), video.get("num_frames"))
    if expected is None:
        return
    if sampling.get("rule") == "Total" and rows != expected:
        yield "wrong rows", f"{rows:,} rows, extraction_total={expected:,}"
    second = expected / video["duration_seconds"] if video.get("duration_seconds") else 0
    if rows < expected - max(2.0, second):  # the last second of a header is often not there
        yield "few rows", f"{rows:,} rows, its header promises about {expected:,.0f}"


def _time_findings(arrays: Mapping[str, np.ndarray], record: Record) -> Iterator[Found]:
    sampling = record.settings.get("sampling")
    rule = sampling.get("rule") if isinstance(sampling, dict) else None
    fps = float(arrays["fps"]) if "fps" in arrays and arrays["fps"].size == 1 else 0.0
    if not np.isfinite(fps) or fps < 0:
        yield "wrong times", f"fps is {fps:g}"
        fps = 0.0
    restarts = "start anew" in " ".join(map(str, record.provenance.get("warnings", ())))
    for key in TIMES:
        if key in arrays and len(arrays[key]) and np.isfinite(arrays[key]).all():
            its_own = key == "timestamps_ms" and rule in ("AtFps", "Total")
            yield from _of_one_clock(key, arrays[key].astype(np.float64), fps, its_own=its_own, restarts=restarts)


def _of_one_clock(key: str, times: np.ndarray, fps: float, *, its_own: bool, restarts: bool) -> Iterator[Found]:
    """`its_own`: the times are the rows' own, a step of 1 / fps apart; else they are those of the file's frames."""
    steps = np.diff(times)
    if its_own and fps and len(steps):
        worst = int(np.abs(steps - 1000 / fps).argmax())
        if abs(steps[worst] - 1000 / fps) > _EQUAL_MS:
            yield "wrong times", f"{key}: {steps[worst]:g} ms from row {worst} to the next, at {fps:g} fps"
    elif len(steps) and steps.min() < 0 and not restarts:
        at = int(steps.argmin())
        yield "wrong times" if its_own else "odd times", f"{key}: {-steps[at]:g} ms back behind row {at}"
    elif fps and key == "timestamps_ms" and len(steps) >= 10 and not restarts and times[-1] > times[0]:
        found = 1000 * len(steps) / float(times[-1] - times[0])
        if not 0.5 < found / fps < 2:
            yield "odd times", f"{key}: {found:.3g} rows a second, fps says {fps:.3g}"
