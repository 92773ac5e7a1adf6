"""Find pictures by words: the pictures whose features lie nearest to those of the text.

Every picture is embedded once, however often a list names it or its copies, and the best `top` are shown as they are.
(The notebook this goes back to embedded a picture for each of its captions and then took every fifth of the best.)
"""

import io
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from apps.contact_sheet import contact_sheet
from evaluation.subject import Subject, unit_rows
from media.images import load_image
from media.inputs import find_images
from models.load import ModelChoice
from store.files import atomic_write, encode
from store.provenance import file_sha256
from utils.errors import MediaError, UserError, check_count

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Match:
    rank: int  # 1 is best
    path: Path
    score: float  # cosine


@dataclass(frozen=True)
class ImageIndex:
    """Pictures and their features, of length 1, computed once for all queries."""

    paths: list[Path]
    features: Float[np.ndarray, "n e"]

    @classmethod
    def build(cls, subject: Subject, paths: Sequence[Path]) -> "ImageIndex":
        """UserError where no picture is left; those that cannot be read and copies of others are left out."""
        first: dict[str, Path] = {}
        for path in paths:
            first.setdefault(_content(path), path)
        different = list(first.values())
        broken: dict[Path, MediaError] = {}

        def opened(path: Path) -> Image.Image:
            try:
                return load_image(path)
            except MediaError as error:
                broken[path] = error
                return Image.new("RGB", (1, 1))  # its row is left out below

        features = unit_rows(subject.images([partial(opened, path) for path in different], title="search"))
        for path in filter(broken.get, different):
            print(f"left out: {broken[path]}", file=sys.stderr)
        usable = [row for row, path in enumerate(different) if path not in broken]
        if not usable:
            raise UserError(f"image_paths: none of the {len(paths)} images can be read")
        return cls([different[row] for row in usable], features[usable])

    def find(self, text: Float[np.ndarray, " e"], top: int) -> list[Match]:
        """The `top` nearest pictures, best first; of equals the first in the list."""
        cosines = self.features @ unit_rows(text[None])[0]
        best = np.argsort(-cosines, kind="stable")[:top]
        return [Match(rank, self.paths[k], float(cosines[k])) for rank, k in enumerate(best.tolist(), start=1)]


def search(
    *,
    query: str | Sequence[str],
    image_paths: str | list[str] | None = None,
    file_with_image_paths: str | None = None,
    top: int = 9,
    columns: int = 3,
    output_path: str | Path = "./output/search",
    model: ModelChoice,
    batch_size: int = 64,
) -> int:
    """Print the best pictures for each query and write `<query>.png` and `<query>.json`; exit status 0."""
    check_count("top", top)
    check_count("columns", columns)
    given = query if isinstance(query, list | tuple) else [query]
    queries = [str(text) for text in given if isinstance(text, str | int | float)]
    if not queries or len(queries) < len(given) or not all(text.strip() for text in queries):
        raise UserError("query: expected a text, or a list of texts")
    items = find_images(image_paths, file_with_image_paths)
    subject = Subject.load(model, batch_size=batch_size)
    index = ImageIndex.build(subject, [item.path for item in items])
    logger.info("%d different images", len(index.paths))
    for text, features, name in zip(queries, subject.texts(queries), file_names(queries), strict=True):
        matches = index.find(features, top)
        print("\n".join([text, *(f"{match.score:8.4f}  {match.path}" for match in matches)]))
        _write(Path(output_path) / name, text, matches, subject, columns)
    return 0


def file_names(queries: Sequence[str]) -> list[str]:
    """A name for each query that any file system takes, no two alike: "a cat!" -> `a_cat`."""
    names: list[str] = []
    for text in queries:
        name = re.sub(r"\W+", "_", text).strip("_").lower()[:40] or "query"
        number = 1
        while (numbered := name if number == 1 else f"{name}_{number}") in names:
            number += 1
        names.append(numbered)
    return names


def _write(path: Path, query: str, matches: list[Match], subject: Subject, columns: int) -> None:
    labels = [(f"{match.rank}. {match.path.name}", f"{match.score:.4f}") for match in matches]
    sheet = contact_sheet([load_image(match.path) for match in matches], labels, title=query, columns=columns)
    picture = io.BytesIO()
    sheet.save(picture, format="PNG")
    found = [{"rank": match.rank, "path": match.path, "score": match.score} for match in matches]
    content = {"query": query, "model": subject.facts, "matches": found}
    for ending, data in ((".png", picture.getvalue()), (".json", encode(content, indent=2))):
        with atomic_write(path.with_name(path.name + ending)) as file:
            file.write(data)


def _content(path: Path) -> str:
    """The same for copies; of a file that cannot be read, its name."""
    try:
        return file_sha256(path)
    except OSError:
        return str(path)
