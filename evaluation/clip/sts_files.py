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

SIX = ("STS12", "STS13", "STS14", "STS15", "STS16", "SICK-R")  # whose mean is the usual figure
Row = tuple[float, str, str]  # score, sentence, sentence


@dataclass(frozen=True)
class ScoredPairs:
    name: str
    first: list[str]
    second: list[str]
    scores: Float[np.ndarray, " n"]
    note: str = ""  # " without MSRvid"

    @property
    def metric(self) -> str:
        """Its name in the table: `STS12_without_MSRvid`."""
        return f"{self.name}{self.note}".replace(" ", "_")


def read_sts(folder: str | None, stsb_path: str | None) -> list[ScoredPairs]:
    """All tasks that are there. UserError where there are none, or a file is not what it should be."""
    tasks = []
    if folder:
        root = Path(folder).expanduser()
        if not root.is_dir():
            raise UserError(f"sts_path={folder}: no such folder; expected semeval-sts/ and sick2014/ in it")
        tasks += [_read_task(root, name) for name in SIX]
    if stsb_path:
        tasks.append(_pairs("STS-B", _read_stsb(Path(stsb_path).expanduser())))
    found = [task for task in tasks if task.first]
    if not found:
        raise UserError(
            f"sts_path={folder}, stsb_path={stsb_path}: no scored pairs there; expected the folder data/sts of "
            "brmson/dataset-sts and the file stsb-en-test.csv of PhilipMay/stsb-multi-mt, or one of them"
        )
    return found


def _read_task(root: Path, name: str) -> ScoredPairs:
    """SICK: `pair_ID, sentence_A, sentence_B, relatedness_score, entailment_judgment` with a header line.

    STS: `score<TAB>sentence<TAB>sentence`; the sub-corpora of a year are pooled. The licence of MSRvid (2012) keeps it
    out of the copy mentioned above.
    """
    if name == "SICK-R":
        files, columns, header = sorted(root.glob("sick2014/SICK_test_annotated.txt")), (3, 1, 2), True
    else:
        files, columns, header = sorted(root.glob(f"semeval-sts/20{name[3:]}/*.test.tsv")), (0, 1, 2), False
    partly = name == "STS12" and not any("MSRvid" in file.name for file in files)
    rows = [row for file in files for row in _rows(file, *columns, header=header)]
    return _pairs(name, rows, " without MSRvid" if partly else "")


def _read_stsb(file: Path) -> list[Row]:
    """`sentence,sentence,score` without a header line."""
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return [(float(row[2]), row[0], row[1]) for row in csv.reader(lines)]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"stsb_path={file}: expected a csv file with sentence,sentence,score ({error})") from error


def _rows(file: Path, score: int, first: int, second: int, *, header: bool) -> list[Row]:
    lines = file.read_text(encoding="utf-8").split("\n")[header:]  # splitlines would also cut inside sentences
    cells = [line.rstrip("\r").split("\t") for line in lines if line.strip()]  # no csv: quotes are part of the text
    try:
        return [(float(row[score]), row[first], row[second]) for row in cells if row[score].strip()]
    except (ValueError, IndexError) as error:
        raise UserError(f"{file}: expected score and two sentences, separated by tabs ({error})") from error


def _pairs(name: str, rows: list[Row], note: str = "") -> ScoredPairs:
    first, second = [_clean(row[1]) for row in rows], [_clean(row[2]) for row in rows]
    return ScoredPairs(name, first, second, np.array([row[0] for row in rows]), note)


def _clean(text: str) -> str:
    return text.lower().strip()
