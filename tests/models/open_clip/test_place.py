"""Where open_clip's files are found, what is told when they are not, and that nothing in them runs."""

import json
import logging
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip import pretrained as tags

from extraction.towers import FoundModel
from models.load import ModelChoice
from models.load import load as load_any
from models.open_clip.family import load
from models.open_clip.tokenizer import load_tokenizer, tokenize
from tests.helpers.open_clip_families import gemma, register, write_family, xlm
from utils.errors import UserError

WEIGHTS, CONFIG = "open_clip_pytorch_model.bin", "open_clip_config.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_family("SigLIP2", tmp_path_factory.mktemp("place") / "siglip2")


def copied(folder: Path, to: Path, *names: str) -> Path:
    """A snapshot as huggingface_hub keeps it in `to/..`, filled by hand."""
    snapshot = to / "snapshots" / ("0123456789abcdef" * 3)[:40]
    snapshot.mkdir(parents=True)
    (to / "refs").mkdir()
    (to / "refs" / "main").write_text(snapshot.name)
    for name in names:
        (snapshot / name).hardlink_to(folder / name)
    return snapshot


def of_file(name: str, weights: Path, **options: Any) -> FoundModel:
    return load(name, pretrained=str(weights), **options)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for key in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)


@pytest.mark.usefixtures("no_network")
def test_a_tag_is_found_in_the_cache(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, tokenizer and licence, without a request, although nobody said offline."""
    name = register("SigLIP2", monkeypatch)
    with pytest.raises(
        UserError, match=r"not in the hub's cache \(.*\), and https://huggingface\.co cannot be reached"
    ):
        load(name, pretrained="webli", download_root=tmp_path)
    with pytest.raises(UserError, match=r"not in the hub's cache \(.*\), and offline=true"):
        load(name, pretrained="webli", download_root=tmp_path, offline=True)
    repository = tmp_path / "models--timm--ViT-B-16-SigLIP2"
    snapshot = copied(folder, repository, WEIGHTS)
    with pytest.raises(UserError, match=r"tokenizer timm/ViT-B-16-SigLIP2: .*as tokenizer_path"):
        load(name, pretrained="webli", download_root=tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (snapshot / file).hardlink_to(folder / file)
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    found = load(name, pretrained="webli", download_root=tmp_path)
    assert found.licence == "apache-2.0"
    assert {path.name for path in found.files} == {WEIGHTS, "tokenizer.json", "tokenizer_config.json"}
    assert found.settings["mean"] == [0.5, 0.5, 0.5]
    of_hub = "hf-hub:timm/ViT-B-16-SigLIP2"
    (snapshot / CONFIG).hardlink_to(folder / CONFIG)
    assert {path.name for path in load(of_hub, download_root=tmp_path).files} - {CONFIG} == {
        path.name for path in found.files
    }


@pytest.mark.usefixtures("no_network")
def test_another_tokenizer_is_another_model(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = register("SigLIP2", monkeypatch)
    weights = folder / WEIGHTS

    def sha256(place: Path) -> str:
        options = {"pretrained": str(weights), "tokenizer_path": str(place)}
        choice = ModelChoice(feature_type="open_clip", model_name=name, device="cpu", family=options)
        return load_any(choice).settings["weights_sha256"]

    gemma(tmp_path / "a")
    xlm(tmp_path / "b")
    assert sha256(tmp_path / "a") == sha256(folder)
    assert sha256(tmp_path / "a") != sha256(tmp_path / "b")
    with pytest.raises(UserError, match=r"expected a folder with tokenizer\.json, found none"):
        of_file(name, weights, tokenizer_path=str(tmp_path))


def test_a_tokenizer_for_a_model_that_has_one(tmp_path: Path) -> None:
    folder = write_family("PE-Core", tmp_path / "pe")
    with pytest.raises(UserError, match="this model's tokenizer comes with open_clip"):
        load(str(folder), tokenizer_path="x")


def test_what_a_file_wants_stands_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_family("DFN", tmp_path / "dfn")
    name = register("DFN", monkeypatch)
    lone = tmp_path / "lone.bin"
    lone.hardlink_to(folder / WEIGHTS)
    monkeypatch.setitem(tags._PRETRAINED[name], "other", tags._pcfg(hf_hub="x/y/"))
    with caplog.at_level(logging.WARNING):
        beside = of_file(name, folder / WEIGHTS)
        assert not [record for record in caplog.records if "different things" in record.message]
        alone = of_file(name, lone)
    (warning,) = [record.message for record in caplog.records if "different things" in record.message]
    assert "dfn5b (resize_mode=squash, quick_gelu)" in warning
    assert (beside.model.visual.resize, alone.model.visual.resize) == ("squash", "crop")
    assert {path.name for path in beside.files} == {WEIGHTS, CONFIG}


def test_an_activation_that_is_given_counts(tmp_path: Path) -> None:
    folder = write_family("DFN", tmp_path / "dfn")
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        own, quick, exact = (
            load(str(folder), activation=a).model.encode_image(image) for a in (None, "quick_gelu", "gelu")
        )
    assert torch.equal(own, quick)
    assert (own - exact).abs().max() > 1e-3


def test_a_resolution_that_does_not_fit_is_one_line(folder: Path) -> None:
    found = load(str(folder), resolution=96)
    assert (found.model.visual.input_resolution, found.model.visual.map_shape) == (96, (32, 6, 6))
    with pytest.raises(UserError, match="cannot load it at resolution=8 "):
        load(str(folder), resolution=8)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("{folder}", "webli", "brings its own weights"),
        ("ViT-B-16-SigLIP2", "{folder}", "a folder; give the file of the weights"),
        ("{empty}", None, "expected open_clip_config.json in this folder, found none"),
    ],
)
def test_folders_in_the_wrong_place(
    name: str, pretrained: str | None, message: str, folder: Path, tmp_path: Path
) -> None:
    given = [each and each.format(folder=folder, empty=tmp_path) for each in (name, pretrained)]
    with pytest.raises(UserError, match=message):
        load(str(given[0]), pretrained=given[1])


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("mode", [None, "clips"])
def test_tokens_are_counted(side: str, mode: str | None, tmp_path: Path) -> None:
    """Padding may be on either side, or not the last column ("clips": a token of its own ends every row)."""
    gemma(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= {"padding_side": side, "cls_token": "<bos>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    text = {"context_length": 8, "tokenizer_mode": mode}
    tokenizer = load_tokenizer(text, str(tmp_path), cache=None, offline=True)
    fits = "abcde" if mode else "abcdefg"
    assert tokenize(tokenizer, [fits], truncate=False).shape == (1, 8)
    assert tokenize(tokenizer, [], truncate=False).shape == (0, 8)
    with pytest.raises(UserError, match="the text has 9 tokens, 8 is the most this model takes"):
        tokenize(tokenizer, ["a", fits + "a"], truncate=False)
    assert tokenize(tokenizer, ["a", fits + "a"], truncate=True).shape == (2, 8)


def evil(folder: Path, kinds: dict[str, str], **content: Any) -> None:
    """What a repository needs to have transformers run its own Python."""
    (folder / "code.py").write_text(f"from pathlib import Path\nPath({str(folder / 'ran')!r}).touch()\n")
    (folder / "config.json").write_text(json.dumps(content | {"auto_map": kinds}))


@pytest.mark.parametrize("asked", [True, None])
def test_the_code_of_a_tokenizer_never_runs(asked: bool | None, tmp_path: Path) -> None:
    folder = write_family("SigLIP2", tmp_path / "evil")
    evil(folder, {"AutoConfig": "code.Config", "AutoTokenizer": "code.Tok"}, model_type="evil")
    config = json.loads((folder / CONFIG).read_text())
    if asked:
        config["model_cfg"]["text_cfg"]["tokenizer_kwargs"]["trust_remote_code"] = True
    (folder / CONFIG).write_text(json.dumps(config))
    tokens = json.loads((folder / "tokenizer_config.json").read_text())
    tokens |= {"tokenizer_class": "Tok", "auto_map": {"AutoTokenizer": ["code.Tok", "code.Tok"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
    with suppress(UserError):
        load(str(folder))
    assert not (folder / "ran").exists()


def test_the_code_of_a_text_tower_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_family("DFN", tmp_path / "evil")
    evil(folder, {"AutoConfig": "code.Config", "AutoModel": "code.Model"}, model_type="evil")
    config = json.loads((folder / CONFIG).read_text())
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(folder)}
    (folder / CONFIG).write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # as somebody at the terminal would
    with pytest.raises(UserError, match="open_clip cannot load it"):
        load(str(folder))
    assert not (folder / "ran").exists()
