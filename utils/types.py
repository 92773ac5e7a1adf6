"""Values that travel from the files in (`media`) to the results out (`store`)."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True)
class Item:
    """One input and the name its results are stored under.

    `name` is relative to the folder of one model's results, with "/" and without an ending:
    `dog/000` for `dog/000.mp4` among the inputs `dog/000.mp4 cat/000.mp4`.
    """

    path: Path  # of texts: the file they stand in
    name: str
    texts: tuple[str, ...] = ()  # where the item is these texts, and not the whole file


@dataclass(frozen=True)
class Source:
    """By what an item's source is recognised again: a file by its size and time, wherever it lies, texts by content."""

    path: str  # as it was given
    size_bytes: int | None = None
    mtime: float | None = None  # seconds since 1970
    texts_sha256: str | None = None

    def same_as(self, other: "Source") -> bool:
        mine, others = ((source.size_bytes, source.mtime, source.texts_sha256) for source in (self, other))
        return mine == others


@dataclass(frozen=True)
class VideoInfo:
    """What the container says of its video stream. Headers can be wrong: frames are counted by decoding."""

    container: str  # "mov,mp4,m4a,3gp,3g2,mj2"
    codec: str  # "h264"
    pixel_format: str  # "yuv420p"
    width_px: int  # as displayed, that is after rotation
    height_px: int
    fps: float  # average rate; 0.0 where the container does not tell
    start_seconds: float  # raw time stamp at which the file starts
    duration_seconds: float | None
    num_frames: int | None  # header, else duration x rate: an estimate for the progress bar
    rotation_degrees: int  # counter-clockwise turn applied on reading
    sample_aspect_ratio: Fraction  # 1 for square pixels; recorded, not applied (as in the reference tools)


class Frame(Protocol):
    """One decoded frame; turning it into RGB costs time, so that happens on demand."""

    index: int  # position among the decoded frames, in presentation order
    seconds: Fraction  # the file's own time stamp, relative to the first frame
    clock_seconds: Fraction  # never runs backwards (time stamps that restart are joined); 0 = start of the file
    duration_seconds: Fraction  # 0 where unknown

    def to_rgb(self) -> np.ndarray:
        """uint8 (h, w, 3), 0..255, rotated as displayed."""
        ...


@dataclass(frozen=True)
class Row:
    """One row of the result: what is shown (`frame`) and the time it stands for (`seconds`, 0 = first frame)."""

    frame: Frame
    seconds: float


@dataclass(frozen=True)
class Features:
    """The finished result of one item, as it is saved and shown.

    `arrays` maps key -> array, in the order they are printed, for example
    `{"clip": (t, d) float32, "grid": (t, n, c) float32, "fps": () float64, "timestamps_ms": (t,) float64}`.
    The features of whole frames, images and texts stand under the feature type ("clip").
    `settings` is what the numbers depend on (model, weights, sampling, preprocessing, precision ...):
    results on disk count as done only while it is unchanged. `provenance` is everything else worth keeping.
    """

    item: Item
    folder: str  # "<feature_type>/<model>", for example "clip/ViT-B_32"
    arrays: dict[str, np.ndarray]
    settings: dict[str, Any]
    provenance: dict[str, Any] = field(default_factory=dict)
    predictions: list[dict[str, Any]] = field(default_factory=list)  # one a row where show_pred is on
    source: Source | None = None  # as it was before it was read; None: as it is when the features are saved
    damage: tuple[str, ...] = ()  # what is lost of the source; the rest was kept
    warnings: tuple[str, ...] = ()

    @property
    def feature_type(self) -> str:
        return self.folder.partition("/")[0]


@runtime_checkable
class Show(Protocol):
    """Shows finished features and leaves no files behind: an option of `on_extraction`, as is `store.forms.Form`."""

    def show(self, features: Features) -> None: ...
