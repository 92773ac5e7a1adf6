"""Every notebook runs from top to bottom, with tiny random weights, and is kept without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers.tiny_clip import write_tiny_checkpoint

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output["text"] for output in cell["outputs"] if output.get("name") == "stdout")


def test_there_is_one() -> None:
    assert [path.name for path in NOTEBOOKS] == ["quickstart.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_clean(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)


@pytest.mark.timeout(330)  # the notebook has 300 s a cell of its own, and says which
def test_quickstart_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_ZOO_MODEL", str(write_tiny_checkpoint(tmp_path / "tiny.pt")))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    (path,) = NOTEBOOKS
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    outputs = [printed(cell) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert outputs[:3] == ["", "", ""]  # nothing to fetch or install
    image, features, moments = outputs[-3:]
    assert sum(float(line.split()[0]) for line in image.splitlines()) == pytest.approx(1, abs=0.01)
    assert "clip                   (8, 16)    float32" in features
    assert len(moments.splitlines()) == 9
