"""FineCapEval (Cho et al. 2022): how many of the words that people noted about an image does its caption have?

Three axes: background, object, relation. Each annotator's phrases are stemmed; a phrase's recall is the share of its
words that the caption has, an image's the mean over all phrases, an axis' the mean over images (0..1; the paper: x100).
`match=substring` is how the original counts: anywhere in the caption's letters, so "art" is found in "part".
`match=token` compares stems of whole words. Words are cut by our own tokenizer instead of NLTK's, which needs a
download.
"""

import csv
import re
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from evaluation.captions.caption_set import CaptionSet
from evaluation.captions.tokenizer import tokenize
from evaluation.result import Result
from utils.errors import UserError, check_option

AXES = ("background", "object", "relation")
COLUMNS = ("image", "caption", *AXES)
SEPARATOR = "\\;"  # backslash and semicolon, between an annotator's phrases
Match = Literal["substring", "token"]
_MISSING = frozenset(["", "nan", "na", "n/a", "null", "none"])  # what pandas reads as no text


class FineCapEval:
    """`path`: FineCapEval.csv; images are known by their file name without ending. Others of the set are left out."""

    def __init__(self, *, path: str | None, match: Match = "substring") -> None:
        check_option("finecapeval_match", match, get_args(Match))
        if not path:
            raise UserError("finecapeval: expected FineCapEval.csv")
        self._path = path
        self._match: Match = match
        self.notes = read_notes(Path(path).expanduser())

    def __call__(self, captions: CaptionSet) -> Result:
        chosen = [k for k, image_id in enumerate(captions.image_ids) if image_id in self.notes]
        if not chosen:
            raise UserError(
                f"finecapeval={self._path}: none of the {len(captions.image_ids)} images is in it; "
                f"its ids are like {next(iter(self.notes))}, the captions' like {captions.image_ids[0]}"
            )
        per_image: dict[str, list[float | None]] = {}
        for axis in AXES:
            values: list[float | None] = [None] * len(captions.image_ids)
            for k in chosen:
                values[k] = recall(captions.captions[k], self.notes[captions.image_ids[k]].phrases[axis], self._match)
            per_image[f"finecapeval_{axis}"] = values
        return Result(
            data={"finecapeval": self._path, "match": self._match, "num_images": len(chosen)},
            metrics={name: float(np.mean([v for v in vs if v is not None])) for name, vs in per_image.items()},
            details={"per_image": per_image},
        )


@dataclass(frozen=True)
class Notes:
    """About one image, of all annotators: captions, and phrases by axis as they were written."""

    captions: list[str] = field(default_factory=list)
    phrases: dict[str, list[str]] = field(default_factory=lambda: {axis: [] for axis in AXES})


def read_notes(path: Path) -> dict[str, Notes]:
    """By image. Rows with an empty field are left out, all of it, as in the original."""
    notes: dict[str, Notes] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for row in csv.DictReader(file):
                fields = [row[column] or "" for column in COLUMNS]
                if any(text.strip().lower() in _MISSING for text in fields):
                    continue
                own = notes.setdefault(Path(fields[0]).stem, Notes())
                own.captions.append(fields[1])
                for axis, text in zip(AXES, fields[2:], strict=True):
                    own.phrases[axis] += [phrase for phrase in text.lower().split(SEPARATOR) if len(phrase) > 1]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"finecapeval={path}: expected a csv file with {','.join(COLUMNS)} ({error!r})") from error
    if not notes:
        raise UserError(f"finecapeval={path}: no complete rows")
    return notes


def recall(caption: str, phrases: list[str], match: Match) -> float:
    """0..1; phrases without a word count as 0, and so does an image without phrases."""
    own = set(stems(caption))
    shares = []
    for phrase in phrases:
        words = stems(phrase)
        hits = sum(word in (caption if match == "substring" else own) for word in words)
        shares.append(hits / len(words) if words else 0.0)
    return float(np.mean(shares)) if shares else 0.0


def stems(text: str) -> list[str]:
    """Letters and digits only."""
    tokens = tokenize(re.sub(r"[()\[\]{}]", " ", text))
    return [word for word in (re.sub("[^a-zA-Z0-9]", "", stem(token)) for token in tokens) if word]


@lru_cache(maxsize=50_000)
def stem(word: str) -> str:
    """ "sitting" and "sits" become "sit"; of a lower-case word."""
    return _porter().stem(word)


@cache
def _porter() -> Any:
    from nltk.stem.porter import PorterStemmer  # late: takes two seconds

    return PorterStemmer()
