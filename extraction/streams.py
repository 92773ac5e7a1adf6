"""Videos, images and texts on their way through a model: read -> encode -> finish (`extraction.pipeline.Stream`)."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from extraction.batching import Encoded, End, Sample, Start
from extraction.one_thread import use_one_thread_here
from extraction.output import Output
from media.images import open_image
from media.reencode import kept_path, through_file
from media.sampling import EveryFrame, Sampler
from media.texts import read_texts
from media.video import VideoReader, open_video
from store.record import item_source
from utils.errors import MediaError, UserError
from utils.types import Features, Item, Row

NO_DAMAGE = "none"


class View(Protocol):
    """How pictures are prepared; `extraction.preprocess.Preprocess`, for one."""

    def image(self, image: Image.Image) -> Any: ...

    def frame(self, rgb: np.ndarray) -> Any: ...

    def settings(self) -> dict[str, Any]: ...


class Pictures(Protocol):
    """What is made of prepared pictures; `extraction.output.Output`, for one."""

    @property
    def folder(self) -> str: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    def encode_images(self, contents: Sequence[Any]) -> dict[str, np.ndarray]: ...

    def arrays(self, encoded: Encoded) -> dict[str, np.ndarray]: ...

    def provenance(self, encoded: Encoded) -> dict[str, Any]: ...

    def predictions(self, encoded: Encoded) -> list[dict[str, Any]]: ...


@dataclass(frozen=True)
class Videos:
    """Frames at the sampler's times."""

    output: Pictures
    preprocess: View
    sampler: Sampler
    on_damage: str = "raise"  # "keep": what decodes of a damaged file
    tmp_path: Path | None = None  # where re-timed videos are written and read back; None: not at all
    unit: str = "frames"
    readers: int = 2  # each decoder has threads of its own
    ahead: int = 2
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.output.settings | self.preprocess.settings()
        settings["sampling"] = {"rule": type(self.sampler).__name__, **vars(self.sampler)}
        if self.on_damage == "raise":
            settings["damage"] = NO_DAMAGE  # what a partial run kept of a damaged file does not count as done
        object.__setattr__(self, "settings", settings)

    @property
    def folder(self) -> str:
        return self.output.folder

    def read(self, item: Item) -> Iterator[Start | Sample | End]:
        """Decode and preprocess one video; runs in a reading thread."""
        use_one_thread_here()
        with open_video(item.path, on_damage=self.on_damage) as video:  # pyright: ignore[reportArgumentType]
            source = item_source(item)  # before reading: a file that changes meanwhile is then done again
            yield Start(self._expected_rows(video))
            frame, pixels = None, None
            for row in self._rows(video, item):
                if row.frame is not frame or pixels is None:  # re-timing may show a frame in several rows
                    frame, pixels = row.frame, self.preprocess.frame(row.frame.to_rgb())
                yield Sample(pixels, row.seconds, float(row.frame.seconds))
            yield End(
                fps=self.sampler.fps_of_rows(video),
                facts={"video": _video_facts(video)},
                source=source,
                damage=tuple(video.damage),
                warnings=(*video.warnings, *video.damage),
            )

    def encode(self, contents: Sequence[Any]) -> dict[str, np.ndarray]:
        return self.output.encode_images(contents)

    def finish(self, encoded: Encoded) -> Features:
        arrays = self.output.arrays(encoded)
        arrays["fps"] = np.array(encoded.end.fps, dtype=np.float64)
        arrays["timestamps_ms"] = _as_ms(encoded.seconds)
        if not isinstance(self.sampler, EveryFrame):
            arrays["source_timestamps_ms"] = _as_ms(encoded.source_seconds)
        settings = self.settings | {"damage": "kept what decodes" if encoded.end.damage else NO_DAMAGE}
        return _finished(encoded, self.output, self.folder, arrays, settings)

    def _rows(self, video: VideoReader, item: Item) -> Iterator[Row]:
        rows = self.sampler.rows(video)
        if self.tmp_path is None or isinstance(self.sampler, EveryFrame):
            return rows
        return through_file(rows, kept_path(self.tmp_path / self.folder, item.name), rate=self.sampler.rate(video))

    def _expected_rows(self, video: VideoReader) -> int | None:
        info = video.info
        if isinstance(self.sampler, EveryFrame):
            return info.num_frames
        return round(info.duration_seconds * self.sampler.rate(video)) if info.duration_seconds else None


@dataclass(frozen=True)
class Images:
    """Still images give one row, animated ones a row for every frame, with their times."""

    output: Pictures
    preprocess: View
    exif_orientation: bool = False
    ahead: int = 64
    unit: str = "images"
    readers: int = max(2, min(16, os.cpu_count() or 2))
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.output.settings | self.preprocess.settings()
        object.__setattr__(self, "settings", settings | {"exif_orientation": self.exif_orientation})

    @property
    def folder(self) -> str:
        return self.output.folder

    def read(self, item: Item) -> Iterator[Start | Sample | End]:
        use_one_thread_here()
        with open_image(item.path, exif_orientation=self.exif_orientation) as image:
            source = item_source(item)
            yield Start(1)
            for frame in image:
                yield Sample(self.preprocess.image(frame.picture), frame.seconds, frame.seconds)
            yield End(facts={"image": image.facts}, source=source, warnings=tuple(image.warnings))

    def encode(self, contents: Sequence[Any]) -> dict[str, np.ndarray]:
        return self.output.encode_images(contents)

    def finish(self, encoded: Encoded) -> Features:
        arrays = self.output.arrays(encoded)
        if encoded.rows > 1:
            arrays["timestamps_ms"] = _as_ms(encoded.seconds)
        return _finished(encoded, self.output, self.folder, arrays, self.settings)


@dataclass(frozen=True)
class Texts:
    """One row for every text. A text that is too long fails its item, unless it is to be cut."""

    output: Output
    truncate: bool = False
    ahead: int = 64
    unit: str = "texts"
    readers: int = 1  # the tokenizer is Python: more threads would not make it faster
    settings: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.output.settings | {"text_overflow": "truncate" if self.truncate else "error"}
        object.__setattr__(self, "settings", settings)

    @property
    def folder(self) -> str:
        return f"{self.output.folder}_texts"  # an image and its captions share their id, so not one folder

    def read(self, item: Item) -> Iterator[Start | Sample | End]:
        source = item_source(item)
        yield Start(len(item.texts) or None)
        for text, where in read_texts(item):
            try:
                tokens = self.output.encoder.model.tokenize([text], truncate=self.truncate)
            except UserError as error:
                raise MediaError(f"{where}: {error}") from error
            yield Sample(tokens[0])
        yield End(facts={"texts": list(item.texts)} if item.texts else {}, source=source)

    def encode(self, contents: Sequence[Tensor]) -> dict[str, np.ndarray]:
        return self.output.encode_texts(contents)

    def finish(self, encoded: Encoded) -> Features:
        end, arrays, provenance = encoded.end, self.output.arrays(encoded), self.output.provenance(encoded)
        return Features(encoded.item, self.folder, arrays, self.settings, provenance, source=end.source)


def _finished(
    encoded: Encoded, output: Pictures, folder: str, arrays: dict[str, np.ndarray], settings: dict[str, Any]
) -> Features:
    end, provenance, predictions = encoded.end, output.provenance(encoded), output.predictions(encoded)
    return Features(
        encoded.item, folder, arrays, settings, provenance, predictions, end.source, end.damage, end.warnings
    )


def _as_ms(seconds: Sequence[float]) -> np.ndarray:
    return np.array(seconds, dtype=np.float64) * 1000


def _video_facts(video: VideoReader) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Fraction) else value for key, value in asdict(video.info).items()}
