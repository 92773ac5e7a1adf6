"""Captioners on the disk: the same captions after loading, and one clear line for files that will not do."""

from pathlib import Path

import pytest
import torch

from models.captioner.checkpoint import EMBEDDED, describe, find_captioner, load_captioner, save_captioner
from models.captioner.decoding import decode
from models.captioner.options import Decoding
from tests.helpers.tiny_captioner import grids, tiny_captioner, vocabulary
from utils.errors import UserError

FEATURES = {"model_name": "RN50", "weights_sha256": "00ff", "resolution": 448, "resize": "squash", "grid_pool": 2}


def saved(path: Path, dtype: torch.dtype | None = None, **arguments) -> Path:
    save_captioner(path, tiny_captioner(**arguments), vocabulary(), FEATURES, dtype=dtype)
    return path


@pytest.mark.parametrize("layer_norm", ["standard", "unbiased"])
def test_the_same_captioner_after_loading(layer_norm, tmp_path):
    model = tiny_captioner(layer_norm=layer_norm)
    loaded = load_captioner(saved(tmp_path / "captioner.pt", layer_norm=layer_norm))
    assert loaded.vocabulary == vocabulary()
    assert loaded.features == FEATURES
    assert loaded.model.arguments == model.arguments
    assert not loaded.model.training
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    decoding = Decoding(max_words=8)
    found, expected = (decode(m, grids(), decoding, vocabulary()) for m in (loaded.model, model))
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.log_probs, expected.log_probs)


def test_half_precision_is_half_the_size_and_loads_as_float32(tmp_path):
    model = tiny_captioner()
    save_captioner(tmp_path / "half.pt", model, vocabulary(), FEATURES)
    content = torch.load(tmp_path / "half.pt", weights_only=True)
    assert {value.dtype for value in content["captioner"].values()} == {torch.float16}
    loaded = load_captioner(tmp_path / "half.pt").model
    assert loaded.dtype == torch.float32
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float())
    assert model.dtype == torch.float32, "the model itself was changed"


def test_what_is_described_does_not_change_with_the_model():
    model = tiny_captioner()
    content = describe(model, vocabulary(), FEATURES)
    before = content["captioner"]["output.bias"].clone()
    with torch.no_grad():
        model.output.bias.add_(1)
    assert torch.equal(content["captioner"]["output.bias"], before)


def test_other_keys_may_stand_beside(tmp_path):
    content = describe(tiny_captioner(), vocabulary(), FEATURES) | {"optimizer": {"state": {}}, "step": 5}
    torch.save(content, tmp_path / "last.pt")
    assert load_captioner(tmp_path / "last.pt").features == FEATURES


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = saved(tmp_path / "captioner.pt")
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda content, file: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        saved(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_vocabulary_of_another_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="a vocabulary of 5 words for a captioner of 7"):
        save_captioner(tmp_path / "x.pt", tiny_captioner(), vocabulary(5), FEATURES)
    assert not list(tmp_path.iterdir())


def test_features_that_are_no_plain_values_are_refused(tmp_path):
    with pytest.raises(TypeError, match="cannot be stored as JSON"):
        save_captioner(tmp_path / "x.pt", tiny_captioner(), vocabulary(), {"resize": object()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": ["a"]}, "1 words, but a captioner of 7"),
        ({"words": ["a", "a"]}, "found 'a' twice"),
        ({"words": 3}, "parts do not fit"),
        ({"arguments": {"vocab_size": 7, "depth": 3}}, "parts do not fit .*depth"),
        ({"arguments": tiny_captioner().arguments | {"hidden": 64}}, "parts do not fit .*size mismatch"),
        ({"arguments": {"vocab_size": 7}}, "parts do not fit .*Missing key"),
        ({"arguments": {"vocab_size": 7, "layer_norm": "batch"}}, "layer_norm=batch"),
        ({"arguments": {"vocab_size": 7, "heads": 7}}, "expected a multiple of heads=7"),
        ({"arguments": []}, "parts do not fit"),
        ({"captioner": {}}, "parts do not fit .*Missing key"),
    ],
)
def test_parts_that_do_not_fit_are_told(change, message, tmp_path):
    torch.save(describe(tiny_captioner(), vocabulary(), FEATURES) | change, tmp_path / "odd.pt")
    with pytest.raises(UserError, match=rf"odd\.pt: .*{message}"):
        load_captioner(tmp_path / "odd.pt")


def test_other_files_are_told(tmp_path):
    torch.save({"model": {}, "architecture": {}}, tmp_path / "clip.pt")
    with pytest.raises(UserError, match=r"clip\.pt: not a captioner, it lacks captioner, arguments, words, features"):
        load_captioner(tmp_path / "clip.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match=r"list\.pt: not a captioner"):
        load_captioner(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match=r"text\.pt: not a readable checkpoint"):
        load_captioner(tmp_path / "text.pt")
    torch.save(Path("x"), tmp_path / "code.pt")
    with pytest.raises(UserError, match=r"code\.pt: not a readable checkpoint"):
        load_captioner(tmp_path / "code.pt")
    with pytest.raises(UserError, match=r"absent\.pt: no such captioner"):
        load_captioner(tmp_path / "absent.pt")


def test_names_and_paths(tmp_path, monkeypatch):
    path = saved(tmp_path / "captioner.pt")
    assert find_captioner(str(path)) == path
    monkeypatch.setitem(EMBEDDED, "tiny", path)
    assert find_captioner("tiny") == path
    with pytest.raises(UserError, match=r"caption_model=tyni: neither .*did you mean tiny"):
        find_captioner("tyni")
