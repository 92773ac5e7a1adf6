"""Which model a name means, what is refused in one line, and that neither network nor a stranger's code is used."""

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models.load import ModelChoice, load
from models.transformers.family import find_folder
from tests.helpers.tiny_transformers import change, write_transformers_model
from utils.errors import UserError


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["siglip"], tmp_path / "copy"))


def loaded(model: Path | str, **options: Any) -> Any:
    return load(ModelChoice(feature_type="transformers", model_name=str(model), device="cpu", **options))


def test_a_hub_id_is_found_in_the_cache(copy: Path, tmp_path: Path) -> None:
    home = tmp_path / "cache" / "models--google--siglip-small"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("abc123")
    shutil.copytree(copy, home / "snapshots" / "abc123")
    found = loaded("google/siglip-small", download_root=tmp_path / "cache", offline=True)
    assert (found.folder, found.licence) == ("transformers/google_siglip-small", "apache-2.0")
    assert found.settings["weights_sha256"] == loaded(copy).settings["weights_sha256"]


@pytest.mark.parametrize("name", ["google/siglip2-base-patch16-naflex", "./no/such/folder", "x" * 200, "a b"])
def test_what_is_nowhere_is_told_at_once(tmp_path: Path, name: str) -> None:
    message = "expected the folder of a model, or the hub id .* found neither. `hf download"
    with pytest.raises(UserError, match=message) as caught:
        find_folder(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_changed_weights_are_another_model(copy: Path) -> None:
    before = loaded(copy).settings["weights_sha256"]
    weights = load_file(copy / "model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert loaded(copy).settings["weights_sha256"] != before


def test_pickled_weights_are_read_as_weights_only(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    assert loaded(copy).model.logit_scale.detach().item() == 2
    torch.save(weights | {"evil": Path("x")}, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="transformers cannot load"):
        loaded(copy)


def spoil_weights(folder: Path, **values: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    for name, value in values.items():
        key = next(key for key in weights if name in key)
        if value is None:
            del weights[key]
        else:
            weights[key] = weights[key] * value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "expected a folder with config.json"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "transformers cannot load"),
        (
            lambda folder: change(folder, "config.json", model_type="bert"),
            "a model of the type bert; .*Expected one of",
        ),
        (lambda folder: (folder / "tokenizer.json").unlink(), "expected the files of a tokenizer"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "expected the configuration of a processor"),
        (lambda folder: (folder / "model.safetensors").unlink(), "transformers cannot load"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"{"), "transformers cannot load"),
        (lambda folder: spoil_weights(folder, probe=None), "1 weights are missing, .*probe for one"),
        (lambda folder: spoil_weights(folder, probe=float("nan")), "probe holds nan or infinite values"),
    ],
)
def test_a_broken_folder_is_told_in_one_line(copy: Path, spoil: Any, message: str) -> None:
    spoil(copy)
    with pytest.raises(UserError, match=message) as caught:
        loaded(copy)
    assert "\n" not in str(caught.value)


def test_code_beside_the_weights_is_not_run(copy: Path, tmp_path: Path) -> None:
    evil = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Evil: pass\n"
    (copy / "evil.py").write_text(evil)
    change(copy, "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})
    change(copy, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    change(copy, "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Evil"})
    assert loaded(copy).model.context_length == 24
    change(copy, "config.json", model_type="evil")
    with pytest.raises(UserError, match="transformers cannot load"):
        loaded(copy)
    assert not (tmp_path / "ran").exists()


def test_a_model_beside_another_processor(tmp_path: Path) -> None:
    folder = write_transformers_model(tmp_path / "mixed", "naflex")
    change(folder, "preprocessor_config.json", patch_size=16)
    with pytest.raises(UserError, match="its processor has patches of 16 pixels, its model of 8"):
        loaded(folder)


def test_an_old_library_is_told(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.transformers.family.version", lambda name: "4.57.1")
    with pytest.raises(UserError, match=r"expected the package transformers 5\.16 or later, found 4\.57\.1: pip"):
        load(ModelChoice(feature_type="transformers", model_name=str(folders["clip"])))
