"""Whole runs over files that harm who reads them: each costs itself, is listed, and is not tried again by itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extraction.extractor import FeatureExtractor
from extraction.fork_server import AVAILABLE
from extraction.options import ReaderOptions
from extraction.pipeline import extract
from media.inputs import find_inputs
from models.clip import ExtractCLIP
from store.forms import SaveNumpy
from tests.helpers.hostile_rows import HostileFiles
from tests.helpers.shared_data import ROOT

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="reader processes are forked, which only Linux does safely")
GOOD = ["a0", "a1", "b0", "b1", "b2"]
REASONS = {
    "crash": "the decoder crashed: signal 11",
    "stop": "no progress in reading for 3 s",
    "bloat": "reading it took more than 0.3 GB of memory",
}


@pytest.fixture(scope="module")
def tiny() -> FeatureExtractor:
    return ExtractCLIP(model_name="tiny", device="cpu", extraction_total=2)


def run(extractor: FeatureExtractor, kind: str, harm: str, folder: Path, **options: Any) -> int:
    """In reader processes that the files of `folder` harm."""
    stream: Any = extractor.streams[kind]
    rows = stream.rows
    stream.rows = HostileFiles(rows)
    try:
        return extract(
            inputs=find_inputs(**{f"{kind}_paths": str(folder)}),
            extractor=extractor,
            on_extraction=[SaveNumpy()],
            output_path=folder.parent / "out",
            readers=ReaderOptions(workers=2, read_timeout=3 if harm == "stop" else 60, read_memory=0.3),
            **options,
        )
    finally:
        stream.rows = rows


def entries(out: Path) -> dict[str, dict[str, Any]]:
    """The last of each item."""
    lines = [json.loads(line) for line in (out / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    return {line["item"]: line for line in lines if line["event"] == "item"}


@pytest.mark.parametrize("kind", ["video", "image"])
@pytest.mark.parametrize("harm", REASONS)
def test_a_file_that_harms_its_reader_costs_itself(
    harm: str, kind: str, tiny: FeatureExtractor, tmp_path: Path
) -> None:
    sample = ROOT / "sample" / {"video": "v_ZNVhz7ctTq0.mp4", "image": "cat.jpg"}[kind]
    (tmp_path / "in").mkdir()
    for name in (*GOOD, f"{harm}0"):
        shutil.copy(sample, tmp_path / "in" / f"{name}{sample.suffix}")
    assert run(tiny, kind, harm, tmp_path / "in") == 1
    found = entries(tmp_path / "out")
    assert {name: entry["status"] for name, entry in found.items()} == dict.fromkeys(GOOD, "done") | {
        f"{harm}0": "failed"
    }
    assert REASONS[harm] in found[f"{harm}0"]["reason"]
    expected = tiny.extract(sample) if kind == "video" else tiny.extract_image(sample)
    for name in GOOD:
        saved = np.load(tmp_path / "out" / "clip" / "tiny" / f"{name}_clip.npy")
        np.testing.assert_allclose(saved, expected["clip"], atol=1e-4)
    assert not (tmp_path / "out" / "clip" / "tiny" / f"{harm}0_meta.json").exists()
