"""The worked example of CONTRIBUTING.md: with its class and its YAML, a form has resume, meta and `convert`."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import call

from tests.helpers.shared_data import ROOT
from utils import command_line


def blocks() -> dict[str, str]:
    """The section's code by the file that it goes into."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## A new saved form")[2]
    found = re.findall(r"```\w+\n# (\S+)\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    return dict(found)


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """All configs and that of the new form, whose module can be imported."""
    yaml_name, python_name = sorted(blocks())
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    assert not (tmp_path / yaml_name).exists()
    (tmp_path / yaml_name).write_text(blocks()[yaml_name])
    name = python_name.removesuffix(".py").replace("/", ".")
    module = ModuleType(name)
    exec(compile(blocks()[python_name], python_name, "exec"), vars(module))
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys.modules["store"], name.partition(".")[2], module, raising=False)
    monkeypatch.setattr(command_line, "CONFIGS", tmp_path / "configs")
    with initialize_config_dir(str(tmp_path / "configs"), version_base="1.3"):
        yield tmp_path / "configs"


def run(*overrides: str, name: str = "extract") -> int:
    given = command_line.prepare(["--config-name", name, *overrides])[2:]
    return call(compose(name, given).job, _convert_="all")


def test_the_worked_example(configs: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, numpy, again = (tmp_path / name for name in ("csv", "numpy", "again"))
    given = (f"image_paths={ROOT / 'sample'}", f"model_name={tiny}", "device=cpu", f"output_path={out}")
    assert run(*given, "on_extraction=save_csv") == 0
    assert "4 done" in capsys.readouterr().err
    meta = json.loads((out / "clip" / "tiny" / "cat_meta.json").read_text())
    facts = meta["files"]["cat_clip.csv"]
    assert {key: facts[key] for key in ("form", "key", "shape", "dtype")} == {
        "form": "csv",
        "key": "clip",
        "shape": [1, 16],
        "dtype": "float32",
    }
    assert run(*given, "on_extraction=save_csv") == 0
    assert "4 skipped" in capsys.readouterr().err
    with pytest.raises(InstantiationException, match="normalize: false -> true"):
        run(*given, "on_extraction=save_csv", "normalize=true")
    assert run(*given, "on_extraction=save_csv", "normalize=true", "overwrite=true") == 0
    assert "4 done" in capsys.readouterr().err
    (out / "clip" / "tiny" / "cat_clip.csv").write_text("1,2,3\n")
    assert run(*given, "on_extraction=[save_csv,save_numpy]", "normalize=true") == 0
    assert "4 done" in capsys.readouterr().err

    def convert(source: Path, form: str, target: Path) -> int:
        return run(f"input_path={source}", f"on_extraction={form}", f"output_path={target}", name="convert")

    for path in out.rglob("*.npy"):
        path.unlink()
    assert convert(out, "save_numpy", numpy) == 0
    assert convert(numpy, "save_csv", again) == 0
    assert convert(out, "save_numpy", numpy) == 0
    assert "4 skipped" in capsys.readouterr().err
    for path in again.rglob("*.csv"):
        assert path.read_bytes() == (out / path.relative_to(again)).read_bytes()
    assert np.linalg.norm(np.load(numpy / "clip" / "tiny" / "cat_clip.npy")) == pytest.approx(1)


def test_without_its_module_nobody_has_the_form(tmp_path: Path) -> None:
    """The product does not ship it: the example is complete as it stands."""
    yaml_name, python_name = sorted(blocks())
    assert not (ROOT / yaml_name).exists()
    assert not (ROOT / python_name).exists()
    kept: Any = sys.modules.get("store.save_csv")
    assert kept is None
