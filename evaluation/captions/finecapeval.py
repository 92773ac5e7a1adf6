"""FineCapEval (Cho et al. 2022): how many of the words that people noted about an image does its caption have?

Overall: BLEU, ROUGE-L and CIDEr-D against the same people's captions. Then three axes: background, object, relation.
Each annotator's phrases are stemmed; a phrase's recall is the share of its words that the caption has, an image's the
mean over all phrases, an axis' the mean over images (0..1; the paper: x100).
`match=substring` is how the original counts: anywhere in the caption's letters, so "art" is found in "part".
`match=token` compares stems of whole words. Words are cut by our own tokenizer instead of NLTK's, which needs a
download.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from evaluation.captions.bleu import Bleu
from evaluation.captions.caption_files import References
from evaluation.captions.caption_set import CaptionSet
from evaluation.captions.cider import Cider
from evaluation.captions.rouge import RougeL
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
        ids = captions.image_ids
        own = {i: caption for i, caption in zip(ids, captions.captions, strict=True) if i in self.notes}
        if not own:
            raise UserError(
                f"finecapeval={self._path}: none of the {len(ids)} images is in it; "
                f"its ids are like {next(iter(self.notes))}, the captions' like {ids[0]}"
            )
        metrics, columns = overall(own, self.notes)
        for axis in AXES:
            columns[axis] = [recall(caption, self.notes[i].phrases[axis], self._match) for i, caption in own.items()]
            metrics[axis] = float(np.mean(columns[axis]))
        by_id = {f"finecapeval_{name}": dict(zip(own, values, strict=True)) for name, values in columns.items()}
        return Result(
            data={"finecapeval": self._path, "match": self._match, "num_images": len(own)},
            metrics={f"finecapeval_{name}": value for name, value in metrics.items()},
            details={"per_image": {name: [values.get(i) for i in ids] for name, values in by_id.items()}},
        )


@dataclass(frozen=True)
class Notes:
    """About one image, of all annotators: captions, and phrases by axis as they were written."""

    file: str
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
                own = notes.setdefault(Path(fields[0]).stem, Notes(fields[0]))
                own.captions.append(fields[1])
                for axis, text in zip(AXES, fields[2:], strict=True):
                    own.phrases[axis] += [phrase for phrase in text.lower().split(SEPARATOR) if len(phrase) > 1]
    except (OSError, KeyError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"finecapeval={path}: expected a csv file with {','.join(COLUMNS)} ({error!r})") from error
    if not notes:
        raise UserError(f"finecapeval={path}: no complete rows")
    return notes


def read_note_references(path: Path) -> References:
    """The captions of the same file as references."""
    notes = read_notes(path)
    return References(
        {image_id: own.captions for image_id, own in notes.items()},
        {image_id: (own.file,) for image_id, own in notes.items()},
    )


def overall(captions: Mapping[str, str], notes: Mapping[str, Notes]) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Metrics against the annotators' captions, and their values by image."""
    judged = CaptionSet.of(captions, {image_id: notes[image_id].captions for image_id in captions})
    metrics: dict[str, float] = {}
    columns: dict[str, list[float]] = {}
    for metric in (Bleu(), RougeL(), Cider()):
        result = metric(judged)
        metrics |= {f"overall_{name}": value for name, value in result.metrics.items()}
        columns |= {f"overall_{name}": values for name, values in result.details["per_image"].items()}
    return metrics, columns


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
