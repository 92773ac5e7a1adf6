"""OpenAI's weights: where they are, how they get here, and how a checkpoint becomes a model."""

import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import get_args

import torch
from filelock import FileLock
from torch import Tensor

from models.checked_tensors import check_tensors
from models.clip.description import build_empty, infer
from models.clip.layers import ACTIVATIONS
from models.clip.layouts import Checkpoint, files_that_count, read_checkpoint, weights_file
from models.clip.model import CLIP
from models.clip.positions import Interpolation
from store.locks import remove_lock
from store.provenance import file_sha256, files_sha256
from utils.errors import UserError, check_count, check_option, did_you_mean, first_line
from utils.progress_bar import progress_bar

logger = logging.getLogger(__name__)

# The folder before a file's name is the file's SHA-256. TorchScript archives, weights in half precision.
_HOST = "https://openaipublic.azureedge.net/clip/models"
URLS = {
    "RN50": f"{_HOST}/afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
    "RN101": f"{_HOST}/8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599/RN101.pt",
    "RN50x4": f"{_HOST}/7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd/RN50x4.pt",
    "RN50x16": f"{_HOST}/52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa/RN50x16.pt",
    "RN50x64": f"{_HOST}/be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c/RN50x64.pt",
    "ViT-B/32": f"{_HOST}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
    "ViT-B/16": f"{_HOST}/5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
    "ViT-L/14": f"{_HOST}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    "ViT-L/14@336px": f"{_HOST}/3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
}
CHECKPOINTS = Path(__file__).parent / "checkpoints"
CUSTOM = CHECKPOINTS / "CLIP-custom.pth"
EMBEDDED = {"tiny": CHECKPOINTS / "tiny.pt"}  # comes with the project: works offline
CACHE = Path("~/.cache/clip")
_CHUNK_BYTES = 1 << 20
_ATTEMPTS = 5


def available_models() -> list[str]:
    """Names of OpenAI's models that `load` downloads."""
    return list(URLS)


def find_weights(name: str, *, download_root: str | Path | None = None, offline: bool = False) -> Path:
    """The checkpoint behind `model_name`: OpenAI's (downloaded once), `tiny` (embedded), `custom`, or a path."""
    if name in EMBEDDED:
        return EMBEDDED[name]
    if name in URLS:
        return download(URLS[name], Path(download_root or CACHE).expanduser(), offline=offline)
    if name == "custom":
        if CUSTOM.is_file():
            return CUSTOM
        raise UserError(f"model_name=custom: expected your weights at {CUSTOM}; put them there, or give their path")
    path = Path(name).expanduser()
    if os.path.exists(path):  # not `path.exists()`, which raises for names that are too long
        return path
    names = [*URLS, *EMBEDDED, "custom"]
    raise UserError(
        f"model_name={name}: neither a model nor the path of a checkpoint; {did_you_mean(name, names)}"
        f"Models: {', '.join(names)}"
    )


def weights_sha256(name: str) -> str:
    """Of the checkpoint behind `model_name`, as features note it. OpenAI's addresses tell it: no need for the file."""
    return Path(URLS[name]).parent.name if name in URLS else files_sha256(files_that_count(find_weights(name)))


def load_model(
    path: Path,
    *,
    activation: str | None = None,
    resolution: int | None = None,
    interpolation: Interpolation = "bicubic",
) -> CLIP:
    """Build the model a checkpoint describes, or its shapes ask for; float32, on the CPU, in evaluation mode.

    `activation` (`quick_gelu` or `gelu`) overrides what the checkpoint says; OpenAI's is the default.
    `resolution`: images of another size, in pixels; the image tower's positions are resized by `interpolation`.
    """
    check_option("interpolation", interpolation, get_args(Interpolation))
    if resolution is not None:
        check_count("resolution", resolution)
    checkpoint = read_checkpoint(path)
    check_tensors(weights_file(path), checkpoint.state, {})
    model = _empty_model(checkpoint, activation)
    _check_keys(checkpoint, model.state_dict())
    check_tensors(weights_file(path), checkpoint.state, model.state_dict())
    # Copies: the checkpoint may be mapped from the disk, where somebody may write over it.
    state = {
        key: value.to(
            torch.float32 if value.is_floating_point() else value.dtype,
            copy=True,
            memory_format=torch.contiguous_format,
        )
        for key, value in checkpoint.state.items()
    }
    model.load_state_dict(state, strict=True, assign=True)
    if resolution is not None:
        model.visual.at_resolution(resolution, interpolation)
    return model.eval()


def _empty_model(checkpoint: Checkpoint, activation: str | None) -> CLIP:
    activation = activation or checkpoint.activation
    if activation:
        check_option("activation", activation, ACTIVATIONS)
    try:
        return build_empty(checkpoint.architecture or infer(checkpoint.state), activation=activation)
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from error
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError) as error:
        raise UserError(
            f"{checkpoint.path}: read as {checkpoint.layout}, incomplete: {first_line(error)} is missing or misshapen"
        ) from error


def _check_keys(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    """Strict, with a message that can be read: the first keys that are missing, not expected or misshapen."""
    state = checkpoint.state
    problems = {
        "missing": [key for key in expected if key not in state],
        "not expected": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected
            if key in state and state[key].shape != expected[key].shape
        ],
    }
    found = [f"{len(keys)} {what}: {', '.join(keys[:3])}" for what, keys in problems.items() if keys]
    if found:
        raise UserError(f"{checkpoint.path}: read as {checkpoint.layout}, but the keys do not fit. {'; '.join(found)}")


def download(url: str, root: Path, *, offline: bool = False) -> Path:
    """Fetch `url` into `root` unless it is there; resume, verify, then move into place.

    The expected SHA-256 is the last folder of the address. Proxies are those of the environment.
    """
    expected_sha256, name = url.split("/")[-2:]
    target = root / name
    if not target.exists():
        if offline:
            raise UserError(f"offline=true and the weights are not here: put {url} at {target}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{target}.lock") as lock:  # of two runs at once, the second waits and finds the file
                try:
                    if not target.exists():
                        _fetch(url, target)
                finally:
                    remove_lock(lock)
        except OSError as error:
            raise UserError(f"{target}: the weights cannot be written there ({error}); set download_root") from error
    if (found := file_sha256(target)) != expected_sha256:
        raise UserError(
            f"{target}: SHA-256 is {found}, expected {expected_sha256}: incomplete or altered. "
            f"Delete the file, or replace it from {url}"
        )
    return target


def _fetch(url: str, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    problem: Exception | None = None
    for attempt in range(_ATTEMPTS):
        if attempt:
            logger.warning("%s: %s; trying again (%d of %d)", url, problem, attempt + 1, _ATTEMPTS)
            time.sleep(attempt)
        try:
            _continue(url, part)
        except urllib.error.HTTPError as error:
            error.close()  # it is the response, too
            problem = error
            if error.code == 416:  # nothing after what is here: the part is whole, or not of this file
                break
            if error.code < 500:
                raise UserError(f"{url}: the server says {error.code} {error.reason}; weights for {target}") from error
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            problem = error
        else:
            break
    else:
        kept = part.stat().st_size if part.exists() else 0
        raise UserError(
            f"{url}: download failed {_ATTEMPTS} times ({problem}); {kept:,} bytes are kept and the next run goes on. "
            f"Without internet, put the file at {target} by hand, or give a local checkpoint as model_name"
        )
    expected_sha256, found = url.split("/")[-2], file_sha256(part)
    if found != expected_sha256:
        part.unlink()
        raise UserError(f"{url}: SHA-256 of the download is {found}, expected {expected_sha256}; {part} was removed")
    os.replace(part, target)


def _continue(url: str, part: Path) -> None:
    """Append what is missing to `part`; a server without ranges starts anew."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urllib.request.urlopen(request, timeout=60) as response:
        resumed = response.status == 206
        start = start if resumed else 0
        remaining = int(response.headers.get("Content-Length", 0))
        total = start + remaining or None
        with (
            open(part, "ab" if resumed else "wb") as file,
            progress_bar(title=f"download {part.stem}", total=total, first=start, unit="B") as bar,
        ):
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and part.stat().st_size < total:
            raise ConnectionError(f"the connection ended at {part.stat().st_size:,} of {total:,} bytes")
