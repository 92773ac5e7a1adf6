"""Versions, source facts and checksums."""

import hashlib
import json
import subprocess
import sys
import tomllib
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import pytest

from store.provenance import file_sha256, software
from store.record import item_source
from utils.errors import MediaError
from utils.types import Item, Source

ROOT = Path(__file__).parents[2]


def test_software_names_everything_the_numbers_depend_on() -> None:
    found = software()
    assert found == json.loads(json.dumps(found))
    assert (
        found["torch_zoo"] == tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    )
    assert found["python"] == sys.version.split()[0]
    for package in ("torch", "torchvision", "av", "numpy", "pillow"):
        assert found[package] == metadata.version(package)
    assert found["libav"]["libavcodec"].count(".") == 2
    assert found["platform"]


def test_asking_for_versions_does_not_import_torch() -> None:
    code = "import sys; from store.provenance import software; software(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_source_facts(tmp_path: Path) -> None:
    path = tmp_path / "ü.mp4"
    path.write_bytes(b"12345")
    source = item_source(Item(path, "ü"))
    assert source == Source(str(path), size_bytes=5, mtime=path.stat().st_mtime)
    assert Source(**json.loads(json.dumps(asdict(source)))) == source  # the time survives JSON to the last bit
    with pytest.raises(MediaError, match="missing"):
        item_source(Item(tmp_path / "missing.mp4", "missing"))


def test_file_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()
