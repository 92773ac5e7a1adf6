"""docs/migration.md: the commands of another tool, as they are called here, give the files that its users have."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import call

from tests.helpers.architectures import Architecture
from tests.helpers.configs import composed
from tests.helpers.shared_data import ROOT
from tests.helpers.tiny_clip import tiny_model

DOCUMENT = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
BLOCK = "\n".join(re.findall(r"^```bash\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)).replace("\\\n", " ")
COMMANDS = [words for line in BLOCK.splitlines() if (words := shlex.split(line, comments=True))]
IDS = {"train2017/000000147328.jpg": "cat", "val2014/COCO_val2014_000000391895.jpg": "coffee"}
SENTENCES = ["A cat.", " a cat looks up", "Two cats", "cat", "The face of a cat..."]
# Few layers, the real widths: a preset insists on its shapes.
SMALL = {
    "ViT-B/16": Architecture(
        embed_dim=512, resolution=224, vision_layers=1, vision_width=768, patch_size=16, text_width=64, text_layers=1
    ),
    "RN101": Architecture(
        embed_dim=512,
        resolution=224,
        vision_layers=(1, 1, 1, 1),
        vision_width=64,
        patch_size=None,
        text_width=64,
        text_layers=1,
    ),
}
SHAPES = {"ViT-B/16": (49, 768), "RN101": (49, 2048), "RN101_448": (49, 2048)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: folder / f"{name.replace('/', '-')}.pt" for name in SMALL}
    for name, path in paths.items():
        torch.save(tiny_model(architecture=SMALL[name]).state_dict(), path)
    return paths


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with COCO's names of files."""
    for name, sample in IDS.items():
        (tmp_path / "coco" / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / "sample" / f"{sample}.jpg", tmp_path / "coco" / name)
    (tmp_path / "image_list.txt").write_text("".join(f"{name}\n" for name in IDS))
    sentences = [{"raw": raw} for raw in SENTENCES]
    images = [{"cocoid": 391895, "filename": "a.jpg", "split": "val", "sentences": sentences}]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str], weights: dict[str, Path], *more: str) -> tuple[int, Path]:
    """The exit status and the folder of results; with small models of the same shapes."""
    given = dict(word.split("=", 1) for word in words[2:])
    model = "RN101" if given.get("preset", "").startswith("RN101") else "ViT-B/16"
    arguments = [word for word in words[2:] if not word.startswith("model_name=")]
    arguments += [f"model_name={weights[model]}", "device=cpu", "workers=0", "batch_size=2", *more]
    status = call(composed("extract", *arguments).job, _convert_="all")
    return status, Path(given["output_path"])


def xmodaler_reads(path: Path) -> dict[str, np.ndarray]:
    """Its dataset for COCO, written down once more: one array alone is `features` under any name."""
    content = np.load(path)
    if len(content.files) == 1:
        content = {"features": content[content.files[0]]}
    found = {"features": content["features"][0:50].astype("float32")}
    return found | {key: content[key].reshape(1, -1, 512) for key in ("g_feature",) if key in content}


def test_all_four_are_there() -> None:
    assert [words[:2] for words in COMMANDS] == [["python", "main.py"]] * 4


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: words[-1].partition("=")[2])
def test_its_files_come_out(
    words: list[str], weights: dict[str, Path], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = run(words, weights)
    assert status == 0
    preset = next((word.partition("=")[2] for word in words if word.startswith("preset=")), "")
    ids = ["147328", "391895"] if preset else ["391895"]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(f"{name}.npz" for name in ids), "ledger.jsonl", "meta.jsonl"]
    )
    for name in ids:
        content = np.load(out / f"{name}.npz")
        shapes = {"features": SHAPES[preset], "g_feature": (1, 512)} if preset else {"g_feature": (5, 512)}
        assert {key: (content[key].shape, content[key].dtype) for key in content.files} == {
            key: (shape, np.float32) for key, shape in shapes.items()
        }
        read = xmodaler_reads(out / f"{name}.npz")
        assert read["features"].shape == (shapes.get("features") or shapes["g_feature"])
    capsys.readouterr()
    assert run(words, weights)[0] == 0
    assert f"{len(ids)} skipped" in capsys.readouterr().err


def test_sentences_are_prepared_as_there(weights: dict[str, Path], folder: Path) -> None:
    """Lower case, without blanks and full stops around them."""
    _, out = run(COMMANDS[0], weights)
    rows = np.load(out / "391895.npz")["g_feature"]
    content = json.loads(Path("dataset_coco.json").read_text())
    content["images"][0]["sentences"] = [{"raw": raw.lower().strip().strip(".")} for raw in SENTENCES]
    Path("dataset_coco.json").write_text(json.dumps(content))
    _, out = run([*COMMANDS[0][:-1], "output_path=plain"], weights)
    np.testing.assert_array_equal(np.load(out / "391895.npz")["g_feature"], rows)


def test_what_is_missing_is_told_before_the_model_is_loaded(
    weights: dict[str, Path], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Path("image_list.txt").open("a") as file:
        file.write("val2014/COCO_val2014_000000000001.jpg\n")
    config = composed("extract", *COMMANDS[1][2:], f"model_name={folder / 'absent.pt'}", "device=cpu")
    with pytest.raises(Exception, match=r"absent\.pt"):
        call(config.job, _convert_="all")
    assert "image_list.txt: 1 of 3 images are not there:" in caplog.text


def test_presets_lie_apart_and_are_kept_apart(weights: dict[str, Path], folder: Path) -> None:
    flat = [word for word in COMMANDS[2] if not word.startswith("output_path=")]
    nested = [word for word in flat if word != "flat=true"]
    for words in (nested, [word.replace("preset=RN101", "preset=RN101_448") for word in nested]):
        assert run([*words, "output_path=both"], weights)[0] == 0
    assert sorted(path.name for path in Path("both/clip").iterdir()) == ["RN101", "RN101_448"]
    assert len(list(Path("both").rglob("*.npz"))) == 4
    assert run([*flat, "output_path=one"], weights)[0] == 0
    before = Path("one/147328.npz").read_bytes()
    other = [word.replace("preset=RN101", "preset=RN101_448") for word in flat]
    with pytest.raises(Exception, match=r"one: holds results of other settings .*resolution_px: 224 -> 448"):
        run([*other, "output_path=one"], weights)
    assert Path("one/147328.npz").read_bytes() == before
    assert run([*other, "output_path=one"], weights, "overwrite=true")[0] == 0
    assert Path("one/147328.npz").read_bytes() != before


def test_the_table_of_the_readme_has_these_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [words for words in COMMANDS if f"`{' '.join(words)}`" not in readme] == []
