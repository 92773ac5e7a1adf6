"""Files of the semantic textual similarity tasks: pairs of sentences that people scored, 0 (or 1) to 5.

Read are the folders of brmson/dataset-sts (`semeval-sts/2012` .. `2016`, `sick2014`) and the csv of
PhilipMay/stsb-multi-mt. Rows without a score are unscored candidates, not pairs of score 0: they are left out.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from utils.errors import UserError

YEARS = (2012, 2013, 2014, 2015, 2016)
SIX = ("STS12", "STS13", "STS14", "STS15", "STS16", "SICK-R")  # whose mean is the usual figure
_NO_MSRVID = " without MSRvid"  # whose licence keeps it out of the copy mentioned above


@dataclass(frozen=True)
class ScoredPairs:
    name: str
    first: list[str]
    second: list[str]
    scores: Float[np.ndarray, " n"]
    note: str = ""


def read_sts(folder: str | None, stsb_path: str | None) -> list[ScoredPairs]:
    """All tasks that are there. UserError where there are none, or a file is not what it should be."""
    tasks = []
    if folder:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise UserError(f"sts_path={folder}: no such folder; expected semeval-sts/ and sick2014/ in it")
        tasks += [_read_year(root / "semeval-sts" / str(year), year) for year in YEARS]
        tasks.append(_read_sick(root / "sick2014" / "SICK_test_annotated.txt"))
    if stsb_path:
        tasks.append(_read_stsb(Path(stsb_path).expanduser()))
    found = [task for task in tasks if task]
    if not found:
        raise UserError(
            f"sts_path={folder}, stsb_path={stsb_path}: no scored pairs there; expected the folder data/sts of "
            "brmson/dataset-sts and the file stsb-en-test.csv of PhilipMay/stsb-multi-mt, or one of them"
        )
    return found


def _read_year(folder: Path, year: int) -> ScoredPairs | None:
    """`score<TAB>sentence<TAB>sentence`; the sub-corpora of a year are pooled."""
    files = sorted(folder.glob("*.test.tsv"))
    rows = [row for file in files for row in _rows(file, score=0, first=1, second=2)]
    note = _NO_MSRVID if year == 2012 and not any("MSRvid" in file.name for file in files) else ""
    return _pairs(f"STS{year % 100}", rows, note)


def _read_sick(file: Path) -> ScoredPairs | None:
    """`pair_ID, sentence_A, sentence_B, relatedness_score, entailment_judgment` with a header line."""
    return _pairs("SICK-R", _rows(file, first=1, second=2, score=3, header=True)) if file.is_file() else None


def _read_stsb(file: Path) -> ScoredPairs | None:
    """`sentence,sentence,score` without a header line."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [(float(row[2]), row[0], row[1]) for row in csv.reader(lines)]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"stsb_path={file}: expected a csv file with sentence,sentence,score ({error})") from error
    return _pairs("STS-B", rows)


def _rows(file: Path, *, score: int, first: int, second: int, header: bool = False) -> list[tuple[float, str, str]]:
    lines = file.read_text(encoding="utf-8").split("\n")[header:]  # splitlines would also cut inside sentences
    cells = [line.rstrip("\r").split("\t") for line in lines if line.strip()]  # no csv: quotes are part of the text
    try:
        return [(float(row[score]), row[first], row[second]) for row in cells if row[score].strip()]
    except (ValueError, IndexError) as error:
        raise UserError(f"{file}: expected score and two sentences, separated by tabs ({error})") from error


def _pairs(name: str, rows: list[tuple[float, str, str]], note: str = "") -> ScoredPairs | None:
    if not rows:
        return None
    scores, first, second = zip(*rows, strict=True)
    return ScoredPairs(
        name, [_clean(text) for text in first], [_clean(text) for text in second], np.array(scores), note
    )


def _clean(text: str) -> str:
    return text.lower().strip()
