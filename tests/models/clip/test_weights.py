"""Downloads from a server of our own, and checkpoints in every layout, sound and unsound."""

import hashlib
import json
import pickle
import threading
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models import clip
from models.clip import weights
from models.clip.layers import QuickGELU
from models.clip.weights import download, find_weights, load_model
from tests.helpers.tiny_clip import TINY, tiny_model
from utils.errors import UserError

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What the server serves, how badly, and what it was asked for."""

    content: bytes = CONTENT
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes sent before the connection ends, one an answer
    status: int = 200
    requests: list[str] = field(default_factory=list)
    port: int = 0

    def url(self, sha256: str = SHA256, name: str = "model.pt") -> str:
        return f"http://127.0.0.1:{self.port}/{sha256}/{name}"


def answer(request: BaseHTTPRequestHandler, server: Server) -> None:
    asked = request.headers.get("Range")
    server.requests.append(f"{request.path} {asked}")
    if server.status != 200:
        request.send_error(server.status)
        return
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
    if start >= len(server.content):
        request.send_error(416)
        return
    body = server.content[start:]
    request.send_response(206 if start else 200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[: server.cut_after.pop(0)] if server.cut_after else body)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # keeps the proxies of its first use
    monkeypatch.setattr(weights.time, "sleep", lambda seconds: None)
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self, state)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state.port = http.server_address[1]
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"model.pt.lock"}


def test_a_download_is_verified_and_done_once(server: Server, tmp_path: Path) -> None:
    root = tmp_path / "not" / "there" / "yet"
    for _ in range(2):
        assert download(server.url(), root) == root / "model.pt"
    assert (root / "model.pt").read_bytes() == CONTENT
    assert files(root) == {"model.pt"}
    assert len(server.requests) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_taken_up_again(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges, server.cut_after = ranges, [200_000, 100_000]
    assert download(server.url(), tmp_path).read_bytes() == CONTENT
    asked = [request.split()[-1] for request in server.requests]
    assert asked == ["None", "bytes=200000-", "bytes=300000-" if ranges else "bytes=100000-"]


@pytest.mark.parametrize("length", [1000, len(CONTENT)])
def test_the_part_of_an_earlier_run_is_gone_on_with(server: Server, tmp_path: Path, length: int) -> None:
    (tmp_path / "model.pt.part").write_bytes(CONTENT[:length])
    assert download(server.url(), tmp_path).read_bytes() == CONTENT
    assert files(tmp_path) == {"model.pt"}
    assert [request.split()[-1] for request in server.requests] == [f"bytes={length}-"]


def test_no_file_under_the_final_name_before_it_is_whole(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, 0, 0, 0, 0]
    with pytest.raises(UserError, match=r"download failed 5 times.*100,000 bytes are kept and the next run goes on"):
        download(server.url(), tmp_path)
    assert files(tmp_path) == {"model.pt.part"}
    assert download(server.url(), tmp_path).read_bytes() == CONTENT


def test_a_download_with_another_hash_is_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.content = b"something else"
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(UserError, match=f"SHA-256 of the download is {found}, expected {SHA256}.*model.pt.part"):
        download(server.url(), tmp_path)
    assert files(tmp_path) == set()


def test_a_file_with_another_hash_is_not_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"half a file")
    found = hashlib.sha256(b"half a file").hexdigest()
    with pytest.raises(UserError, match=f"model.pt: SHA-256 is {found}, expected {SHA256}.*Delete the file"):
        download(server.url(), tmp_path)
    assert not server.requests


def test_offline_names_address_and_place(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"offline=true.*put {server.url()} at {tmp_path}/model.pt"):
        download(server.url(), tmp_path, offline=True)
    assert not server.requests
    (tmp_path / "model.pt").write_bytes(CONTENT)
    assert download(server.url(), tmp_path, offline=True) == tmp_path / "model.pt"


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (503, 5)])
def test_only_the_servers_own_faults_are_tried_again(server: Server, tmp_path: Path, status: int, times: int) -> None:
    server.status = status
    with pytest.raises(UserError, match=rf"{server.url()}.*{status}.*{tmp_path}"):
        download(server.url(), tmp_path)
    assert len(server.requests) == times


def test_no_internet_says_where_to_put_the_file(server: Server, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:1/{SHA256}/model.pt"
    with pytest.raises(UserError, match=rf"{url}: download failed 5 times.*put the file at {tmp_path}/model.pt"):
        download(url, tmp_path)


def test_two_at_once_fetch_once(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: download(server.url(), tmp_path).read_bytes(), range(4)))
    assert found == [CONTENT] * 4
    assert len(server.requests) == 1


def test_a_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
    monkeypatch.delenv("no_proxy", raising=False)
    url = f"http://weights.invalid/{SHA256}/model.pt"
    assert download(url, tmp_path).read_bytes() == CONTENT
    assert server.requests == [f"{url} None"]


def test_a_place_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"file.*the weights cannot be written there.*set download_root"):
        download(server.url(), tmp_path / "file")


def test_a_name_is_downloaded_into_download_root(
    server: Server, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = tiny.read_bytes()
    url = server.url(hashlib.sha256(server.content).hexdigest(), "ViT-B-32.pt")
    monkeypatch.setitem(weights.URLS, "ViT-B/32", url)
    monkeypatch.setattr(weights, "CACHE", tmp_path / "default")
    model, _ = clip.load("ViT-B/32", device="cpu", download_root=str(tmp_path / "root"))
    assert model.visual.input_resolution == 32
    assert (tmp_path / "root" / "ViT-B-32.pt").is_file()
    assert not (tmp_path / "default").exists()
    assert find_weights("ViT-B/32") == tmp_path / "default" / "ViT-B-32.pt"


def test_the_table_holds_a_hash_for_every_model() -> None:
    hashes = {url.split("/")[-2] for url in weights.URLS.values()}
    assert {len(bytes.fromhex(sha256)) for sha256 in hashes} == {32}
    assert len(hashes) == 9
    assert weights.URLS["ViT-B/32"].endswith(
        "/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B32", r"did you mean ViT-B/32\?"),
        ("RN50x5", r"did you mean RN50x\d+\?"),
        ("no/such/file.pt", "neither a model nor the path of a checkpoint; Models: RN50, .*custom"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"model_name={name}: .*{message}"):
        find_weights(name)


def test_custom_is_a_fixed_place(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weights.CUSTOM.parts[-4:] == ("models", "clip", "checkpoints", "CLIP-custom.pth")
    monkeypatch.setattr(weights, "CUSTOM", tmp_path / "CLIP-custom.pth")
    with pytest.raises(UserError, match=r"model_name=custom: expected your weights at .*CLIP-custom\.pth"):
        find_weights("custom")
    weights.CUSTOM.write_bytes(tiny.read_bytes())
    assert clip.load("custom", device="cpu")[0].visual.input_resolution == 32


State = dict[str, Any]


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + key: value for key, value in state.items()}


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "ddp": prefixed("module."),
    "compiled": prefixed("_orig_mod."),
    "compiled ddp": prefixed("module._orig_mod."),
    "attribute": prefixed("model."),
    "lightning": lambda state: {"state_dict": prefixed("model.")(state), "epoch": 3, "hyper_parameters": {"lr": 1.0}},
    "nested": lambda state: {"model": {"state_dict": prefixed("module.model.")(state)}, "optimizer": {"lr": 0.1}},
    "ema": lambda state: {"ema_state_dict": state, "step": 7},
    "sizes beside": lambda state: state | {"input_resolution": torch.tensor(32), "vocab_size": torch.tensor(49408)},
    "half": lambda state: {key: value.half() for key, value in state.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_weights_are_found_in_what_training_tools_wrap_around_them(wrapping: str, tmp_path: Path) -> None:
    torch.save(WRAPPINGS[wrapping](tiny_model().state_dict()), tmp_path / "a.pt")
    found, wanted = load_model(tmp_path / "a.pt").state_dict(), tiny_model().state_dict()
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        assert torch.equal(found[key], value.half().float() if wrapping == "half" else value), key


class Innocent:
    """Not a tensor: unpickling it could run anything."""


def write_pickled_object(path: Path) -> None:
    torch.save({"model": Innocent(), "state_dict": tiny_model().state_dict()}, path)


def write_truncated(path: Path) -> None:
    torch.save(tiny_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1_000_000])


def write_truncated_safetensors(path: Path) -> None:
    save_file({key: value.contiguous() for key, value in tiny_model().state_dict().items()}, path)
    path.write_bytes(path.read_bytes()[:1_000_000])


def write_changed(change: Callable[[State], Any]) -> Callable[[Path], None]:
    return lambda path: torch.save(change(tiny_model().state_dict()), path)


UNSOUND: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "truncated": ("a.pt", write_truncated, "not a readable checkpoint|no checkpoint at all"),
    "truncated safetensors": ("a.safetensors", write_truncated_safetensors, "not a readable safetensors file"),
    "random": ("a.pt", lambda path: path.write_bytes(CONTENT[7:5000]), "no checkpoint at all|not a readable"),
    "text": ("a.pt", lambda path: path.write_text("<html>404</html>"), "no checkpoint at all|not a readable"),
    "empty": ("a.pt", lambda path: path.write_bytes(b""), "no checkpoint at all|not a readable"),
    "plain pickle": ("a.pt", lambda path: path.write_bytes(pickle.dumps([1], protocol=2)), "not a readable checkpoint"),
    "objects": ("a.pt", write_pickled_object, "not safe to load.*save model.state_dict"),
    "folder": ("a", Path.mkdir, "expected model.safetensors or pytorch_model.bin"),
    "a list": ("a.pt", lambda path: torch.save([1, 2], path), "expected a state dict, found list"),
    "no tensors": ("a.pt", lambda path: torch.save({"epoch": 1}, path), "no tensors in this checkpoint.*epoch"),
    "another model": (
        "a.pt",
        lambda path: torch.save({"fc.weight": torch.zeros(2)}, path),
        "no CLIP model in this file: expected a key ending in visual.conv1.weight.*found fc.weight",
    ),
    "one key missing": (
        "a.pt",
        write_changed(lambda state: {k: v for k, v in state.items() if k != "visual.ln_pre.bias"}),
        r"the keys do not fit. 1 missing: visual.ln_pre.bias",
    ),
    "one key more": ("a.pt", write_changed(lambda state: state | {"extra": torch.zeros(1)}), "1 not expected: extra"),
    "misshapen": (
        "a.pt",
        write_changed(lambda state: state | {"visual.ln_pre.bias": torch.zeros(65)}),
        r"1 of another shape: visual.ln_pre.bias \(65,\) instead of \(64,\)",
    ),
    "no text tower": (
        "a.pt",
        write_changed(lambda state: {k: v for k, v in state.items() if k.startswith("visual.")}),
        "incomplete: 'ln_final.weight' is missing",
    ),
}


@pytest.mark.parametrize("kind", UNSOUND)
def test_unsound_checkpoints_are_told_apart(kind: str, tmp_path: Path) -> None:
    name, write, message = UNSOUND[kind]
    write(tmp_path / name)
    with pytest.raises(UserError, match=rf"^{tmp_path / name}: .*({message})"):
        load_model(tmp_path / name)


def hugging_face(state: State) -> State:
    """OpenAI's keys of a one-block ViT as Hugging Face names them."""
    found: State = {"logit_scale": state["logit_scale"]}
    for side, start in (("vision_model", "visual."), ("text_model", "")):
        block = f"{start}transformer.resblocks.0."
        theirs = f"{side}.encoder.layers.0."
        for kind in ("weight", "bias"):
            for letter, third in zip("qkv", state[f"{block}attn.in_proj_{kind}"].chunk(3), strict=True):
                found[f"{theirs}self_attn.{letter}_proj.{kind}"] = third.clone()
            for ours, name in (
                ("attn.out_proj", "self_attn.out_proj"),
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                found[f"{theirs}{name}.{kind}"] = state[f"{block}{ours}.{kind}"]
            found[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
            found[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
            found[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        found[f"{side}.embeddings.position_embedding.weight"] = state[f"{start}positional_embedding"]
    found["vision_model.embeddings.class_embedding"] = state["visual.class_embedding"]
    found["vision_model.embeddings.patch_embedding.weight"] = state["visual.conv1.weight"]
    found["text_model.embeddings.token_embedding.weight"] = state["token_embedding.weight"]
    found["visual_projection.weight"] = state["visual.proj"].T.contiguous()
    found["text_projection.weight"] = state["text_projection"].T.contiguous()
    return found


@pytest.mark.parametrize(
    ("config", "activation"),
    [
        ({"vision_config": {"hidden_act": "gelu"}, "text_config": {"hidden_act": "gelu"}}, torch.nn.GELU),
        ({"vision_config": {"hidden_act": "quick_gelu"}, "text_config": {"hidden_act": "quick_gelu"}}, QuickGELU),
        ({"vision_config": {}, "text_config": {}}, QuickGELU),
        (["not", "a", "model's"], QuickGELU),
        (None, QuickGELU),
    ],
)
def test_activation_of_a_hugging_face_folder(config: Any, activation: type, tmp_path: Path) -> None:
    save_file(hugging_face(tiny_model().state_dict()), tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_model(tmp_path)
    assert {type(block.mlp.gelu) for block in model.text.transformer.resblocks} == {activation}  # pyright: ignore
    assert {type(block.mlp.gelu) for block in model.visual.transformer.resblocks} == {activation}  # pyright: ignore
    for key, value in tiny_model().state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize(("config", "activation"), [({}, torch.nn.GELU), ({"quick_gelu": True}, QuickGELU)])
def test_activation_of_an_open_clip_folder(config: dict[str, bool], activation: type, tmp_path: Path) -> None:
    save_file(tiny_model().state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    block = load_model(tmp_path).text.transformer.resblocks[0]  # pyright: ignore
    assert type(block.mlp.gelu) is activation  # pyright: ignore


def test_activation_can_be_overridden(tiny: Path) -> None:
    images = torch.randn(1, 3, TINY.resolution, TINY.resolution)
    with torch.no_grad():
        one, other = (load_model(tiny, activation=name).encode_image(images) for name in ("quick_gelu", "gelu"))
    assert not torch.allclose(one, other)
