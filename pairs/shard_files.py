"""Files of webdataset tar shards: which are there, and the samples in one.

In a shard, files of one sample follow one another and share their name up to the first dot: 000012.jpg, 000012.txt,
000012.json.
"""

import itertools
import json
import logging
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pairs.picture_folders import IMAGE_ENDINGS
from utils.errors import UserError, some

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardSample:
    """Undecoded. `id` is img2dataset's number of the sample, else a checksum of its name."""

    image: bytes
    caption: str
    id: int
    name: str


def find_shards(path: str | Sequence[str]) -> list[Path]:
    """Sorted within each entry. UserError for one that is nowhere; gaps in `{00000..35000}` are told."""
    found = []
    for entry in [path] if isinstance(path, str) else path:
        braces = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", entry)
        if braces:
            files = _numbered(entry, *braces.groups())
        elif Path(entry).is_dir():
            files = sorted(Path(entry).glob("*.tar"))
        else:
            files = sorted(Path(entry).parent.glob(Path(entry).name))
        files = [file for file in files if file.is_file()]
        if not files:
            raise UserError(f"data_path={entry}: no such tar shards")
        found += files
    return found


def _numbered(entry: str, before: str, first: str, last: str, after: str) -> list[Path]:
    """Downloads of thousands of shards seldom bring all."""
    numbers = range(int(first), int(last) + 1)
    there = {i: Path(f"{before}{i:0{len(first)}}{after}") for i in numbers}
    there = {i: file for i, file in there.items() if file.is_file()}
    missing = [i for i in numbers if i not in there]
    if missing and there:
        shown, counted = some(_ranges(missing, len(first))), f"{len(missing)} of {len(numbers)} shards"
        logger.warning("data_path=%s: %s are not there and left out: %s", entry, counted, shown)
    return list(there.values())


def _ranges(numbers: Sequence[int], digits: int) -> list[str]:
    """[3, 5, 6, 7] -> 00003, 00005..00007"""
    shown = []
    for _, run in itertools.groupby(enumerate(numbers), key=lambda numbered: numbered[1] - numbered[0]):
        first, *later = [f"{number:0{digits}}" for _, number in run]
        shown.append(f"{first}..{later[-1]}" if later else first)
    return shown


def recorded_count(shard: Path) -> int:
    stats = shard.with_name(f"{shard.stem}_stats.json")
    try:
        return int(json.loads(stats.read_text(encoding="utf-8"))["successes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{stats}: no count of samples there: give data.samples_per_epoch") from error


def read_shard(shard: Path, caption_key: str) -> Iterator[ShardSample]:
    """The samples of one tar file in order; those without an image or a caption are passed over.

    A shard that ends in the middle, as broken downloads do, is used as far as it goes, with a warning.
    """
    for key, parts in _raw_samples(shard):
        yield from _sample(parts, key, shard, caption_key)


def _raw_samples(shard: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Names with the contents of their files by ending."""
    parts: dict[str, bytes] = {}
    current = ""
    try:
        with tarfile.open(shard, "r|") as archive:  # "|": a stream, no list of members is kept
            for member in archive:
                folder, _, file_name = member.name.rpartition("/")
                stem, _, ending = file_name.partition(".")
                if not member.isfile() or not stem:
                    continue
                if (key := f"{folder}/{stem}") != current:
                    if parts:
                        yield current, parts
                    parts, current = {}, key
                file = archive.extractfile(member)
                parts[ending.lower()] = file.read() if file else b""
        if parts:
            yield current, parts
    except (OSError, tarfile.TarError) as error:
        logger.warning("%s: the rest of this shard cannot be read (%s)", shard, error)


def nothing_in(shards: Sequence[Path], caption_key: str) -> UserError:
    """What could be meant instead: the endings of the first sample, and the texts in its json."""
    parts = next((parts for _, parts in _raw_samples(shards[0])), {})
    try:
        content = json.loads(parts.get("json", b"{}"))
        texts = [f"json.{field}" for field, value in content.items() if isinstance(value, str)]
    except (ValueError, AttributeError):
        texts = []
    names = [*(ending for ending in parts if ending != "json"), *texts]
    there = f"its first sample has {', '.join(names)}" if parts else "there are no samples in it"
    return UserError(f"data.caption_key={caption_key}: no image with such a caption in {shards[0]}; {there}")


def _sample(parts: Mapping[str, bytes], key: str, shard: Path, caption_key: str) -> Iterator[ShardSample]:
    image = next((data for ending, data in parts.items() if f".{ending}" in IMAGE_ENDINGS), None)
    ending, _, field = caption_key.partition(".")
    text = parts.get(ending)
    if image is None or text is None or caption_key == "json":
        return
    try:
        caption = json.loads(text)[field] if field else text.decode("utf-8", errors="replace")
    except (ValueError, KeyError, TypeError):
        return
    if isinstance(caption, str) and caption.strip():
        stem = key.rpartition("/")[2]
        number = int(stem) if stem.isdigit() and len(stem) < 19 else zlib.crc32(f"{shard.stem}{key}".encode())
        yield ShardSample(image, caption.strip(), number, f"{shard}:{key.lstrip('/')}")
