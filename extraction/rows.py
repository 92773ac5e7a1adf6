"""Files -> prepared rows: what is done to videos and images before the encoder, wherever it is done.

Those of pictures are plain values that can be sent to another process: they know how to prepare them, but no model.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from extraction.events import End, Prepared, Start
from extraction.preprocess import Preparation
from media.images import open_image
from media.limits import DEFAULT_LIMITS, Limits
from media.reencode import kept_path, through_file
from media.sampling import EveryFrame, Sampler
from media.texts import read_texts
from media.video import OnDamage, VideoReader
from store.record import item_source
from utils.errors import MediaError, UserError
from utils.types import Item


@dataclass(frozen=True)
class VideoRows:
    """Frames at the sampler's times."""

    preprocess: Preparation
    sampler: Sampler
    on_damage: OnDamage = "raise"
    tmp_folder: Path | None = None  # where re-timed videos are written and read back; None: not at all
    limits: Limits = DEFAULT_LIMITS

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        """Decode and prepare one video, without its first `skip` rows."""
        sampler = self.sampler
        with VideoReader(item.path, on_damage=self.on_damage, limits=self.limits) as video:
            source = item_source(item)  # before reading: a file that changes meanwhile is then done again
            info, through = video.info, self.tmp_folder if not isinstance(sampler, EveryFrame) else None
            rows = sampler.rows(video, skip=0 if through else skip)
            if isinstance(sampler, EveryFrame):
                yield Start(info.num_frames)
            else:
                yield Start(round(info.duration_seconds * sampler.rate(video)) if info.duration_seconds else None)
            if through:
                kept = through_file(rows, kept_path(through, item.name), rate=sampler.rate(video))
                rows = islice(kept, skip, None)
            frame, pixels = None, None
            for row in rows:
                if row.frame is not frame or pixels is None:  # re-timing may show a frame in several rows
                    frame, pixels = row.frame, _prepared(item, self.preprocess.frame, row.frame.to_rgb())
                yield Prepared(pixels, row.seconds, float(row.frame.seconds))
            facts = {key: str(value) if isinstance(value, Fraction) else value for key, value in asdict(info).items()}
            yield End(
                fps=float(sampler.rate(video)),
                facts={"video": facts},
                source=source,
                damage=tuple(video.damage),
                warnings=(*video.warnings, *video.damage),
            )


def _prepared(item: Item, prepare: Callable[[Any], Any], picture: Any) -> Any:
    try:
        return prepare(picture)
    except MediaError as error:  # which knows no file
        raise MediaError(f"{item.path}: {error}") from error


@dataclass(frozen=True)
class ImageRows:
    """Still images give one row, animated ones a row for every frame, with their times."""

    preprocess: Preparation
    exif_orientation: bool = False
    limits: Limits = DEFAULT_LIMITS

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        """Decode and prepare one image, without its first `skip` rows."""
        with open_image(item.path, exif_orientation=self.exif_orientation, limits=self.limits) as image:
            source = item_source(item)
            yield Start(1)
            for number, frame in enumerate(image):
                if number >= skip:
                    pixels = _prepared(item, self.preprocess.image, frame.picture)
                    yield Prepared(pixels, frame.seconds, frame.seconds)
            yield End(facts={"image": image.facts}, source=source, warnings=tuple(image.warnings))


@dataclass(frozen=True)
class TextRows:
    """One row for every text. A text that is too long fails its item, unless it is to be cut."""

    tokenize: Callable[..., Tensor]  # `extraction.towers.ImageTextModel.tokenize`
    truncate: bool = False

    def read(self, item: Item, *, skip: int = 0) -> Iterator[Start | Prepared | End]:
        source = item_source(item)
        yield Start(len(item.texts) or None)
        for text, where in islice(read_texts(item), skip, None):
            try:
                tokens = self.tokenize([text], truncate=self.truncate)
            except UserError as error:
                raise MediaError(f"{where}: {error}") from error
            yield Prepared(tokens[0])
        yield End(facts={"texts": list(item.texts)} if item.texts else {}, source=source)
