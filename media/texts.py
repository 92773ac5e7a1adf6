"""Texts in: from the command line, from a file with one a line, from files of images with captions."""

import itertools
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from media.caption_files import read_captions
from media.naming import folded
from media.text_files import UTF_16, open_plain
from utils.errors import MediaError, UserError
from utils.types import Item

logger = logging.getLogger(__name__)

_COMMAND_LINE = Path("texts")
_LONGEST_BYTES = 1 << 20  # of a line
_LARGEST_BYTES = 1 << 28  # of a file in UTF-16, which is read as a whole


def find_texts(
    texts: str | Sequence[str] | None = None,
    file_with_texts: str | os.PathLike[str] | None = None,
    annotations: str | os.PathLike[str] | None = None,
) -> list[Item]:
    """The texts of a run: one item for `texts` or for the file, one for each image of `annotations` (all splits).

    Sentences of `annotations` are prepared as by OpenAI-CLIP-Feature: lower case, no spaces and full stops at the
    ends. Their items are named by COCO's image id, else by the image file's stem.
    """
    if texts is not None and file_with_texts is not None:
        raise UserError("expected at most one of texts and file_with_texts, found both: give one of them")
    items = []
    if texts is not None:
        items.append(Item(_COMMAND_LINE, "texts", _checked([texts] if isinstance(texts, str | int | float) else texts)))
    if file_with_texts is not None:
        items.append(_whole_file(Path(file_with_texts)))
    if annotations is not None:
        items += _sentences(Path(annotations))
    _check_names(items)
    return items


def read_texts(item: Item) -> Iterator[tuple[str, str]]:
    """(text, where it stands) in order: row k of the results is text k. MediaError for a file that cannot be read."""
    if not item.texts:
        yield from _lines(item.path)
        return
    where = "texts, number" if item.path == _COMMAND_LINE else f"{item.path.name}, image {item.name}, sentence"
    yield from ((text, f"{where} {number}") for number, text in enumerate(item.texts, start=1))


def _checked(texts: Sequence[str]) -> tuple[str, ...]:
    """Numbers are fine: `texts=[1984]` on the command line is one."""
    if not isinstance(texts, list | tuple) or not texts:
        raise UserError(f"texts={texts}: expected a text, or a list of texts")
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str | int | float):
            raise UserError(f"texts, number {number}: expected a text, found {text!r}; put it into quotation marks")
    return tuple(map(str, texts))


def _whole_file(path: Path) -> Item:
    try:
        empty = next(_byte_lines(path), None) is None
    except OSError as error:
        raise UserError(f"file_with_texts={path}: cannot be read ({error.strerror}); expected a text file") from error
    if empty:
        raise UserError(f"file_with_texts={path}: an empty file; expected one text a line")
    return Item(path, path.stem)


def _sentences(path: Path) -> Iterator[Item]:
    listed = read_captions(path, key="annotations")
    silent = [image.id for image in listed if not image.captions]
    if silent:
        logger.warning("%s: %d images without sentences are left out: %s ...", path, len(silent), silent[0])
    for image in listed:
        if image.captions:
            yield Item(path, image.id, tuple(text.lower().strip().strip(".") for text in image.texts))


def _check_names(items: Sequence[Item]) -> None:
    counts = Counter(folded(item.name) for item in items)
    for item in items:
        if counts[folded(item.name)] > 1:
            raise UserError(f"{item.path}: several items are called {item.name}; expected every id once")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """As they are needed: such files may be larger than the memory. A blank line is an empty text."""
    blank = []
    try:
        for number, line in enumerate(_byte_lines(path), start=1):
            where = f"{path.name}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise MediaError(
                    f"{path}, line {number}: not UTF-8 ({error.reason}); save the file as UTF-8"
                ) from error
            if "\0" in text:
                raise MediaError(f"{path}, line {number}: holds NUL bytes; save the file as UTF-8")
            if not text.strip():
                blank.append(where)
            yield text, where
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror}); expected a text file, one text a line") from error
    if blank:
        logger.warning("%s: %d empty texts, the first is %s", path, len(blank), blank[0])


def _byte_lines(path: Path) -> Iterator[bytes]:
    """UTF-8 without the ends of the lines. UTF-16 is turned into it."""
    with open_plain(path) as file:
        if file.read(2) in UTF_16:
            if file.seek(0, os.SEEK_END) > _LARGEST_BYTES:
                raise MediaError(f"{path}: more than {_LARGEST_BYTES:,} bytes of UTF-16; save the file as UTF-8")
            file.seek(0)
            yield from _from_utf_16(file.read(), path)
            return
        file.seek(0)
        for number in itertools.count(1):
            line = file.readline(_LONGEST_BYTES + 1)
            if not line:
                return
            if len(line) > _LONGEST_BYTES:
                raise MediaError(
                    f"{path}, line {number}: longer than {_LONGEST_BYTES:,} bytes; expected one text a line"
                )
            yield line.removesuffix(b"\n").removesuffix(b"\r")


def _from_utf_16(data: bytes, path: Path) -> list[bytes]:
    try:
        text = data.decode("utf-16")
    except UnicodeDecodeError as error:
        line = data[: error.start].decode("utf-16", errors="replace").count("\n") + 1
        raise MediaError(f"{path}, line {line}: not UTF-16 ({error.reason}); save the file as UTF-8") from error
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r").encode() for line in lines]
