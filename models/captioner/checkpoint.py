"""A captioner on the disk, with all that captions need: weights, sizes, words, and which features it looks at."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.captioner.model import Captioner
from models.captioner.vocabulary import Vocabulary
from models.checked_tensors import check_tensors
from models.clip.description import WithoutInitialWeights
from store.files import atomic_write, plain
from utils.errors import UserError, did_you_mean

EMBEDDED = {"tiny": Path(__file__).parent / "checkpoints" / "tiny.pt"}  # comes with the project: works offline
KEYS = ("captioner", "arguments", "words", "features")


@dataclass(frozen=True)
class LoadedCaptioner:
    """`features` describes the grids it was trained on: `model_name`, its weights' SHA-256, `resolution`, ..."""

    model: Captioner
    vocabulary: Vocabulary
    features: dict[str, Any]


def find_captioner(name: str, *, key: str = "caption_model") -> Path:
    """The checkpoint that option `key` names: `tiny` (embedded), or a path."""
    path = EMBEDDED.get(name, Path(name).expanduser())
    if not os.path.isfile(path):
        raise UserError(
            f"{key}={name}: neither an embedded captioner nor the path of a checkpoint; "
            f"{did_you_mean(name, EMBEDDED)}Embedded: {', '.join(EMBEDDED)}"
        )
    return path


def describe(
    model: Captioner, vocabulary: Vocabulary, features: Mapping[str, Any], dtype: torch.dtype | None = None
) -> dict[str, Any]:
    """What `load_captioner` needs; a training checkpoint may hold other keys beside these. `dtype` is the weights'."""
    if len(vocabulary) != model.vocab_size:
        raise UserError(f"a vocabulary of {len(vocabulary)} words for a captioner of {model.vocab_size}: not its own")
    state = {key: value.detach().to("cpu", dtype, copy=True) for key, value in model.state_dict().items()}
    values = (state, plain(model.arguments), list(vocabulary.words), plain(dict(features)))
    return dict(zip(KEYS, values, strict=True))


def save_captioner(
    path: Path,
    model: Captioner,
    vocabulary: Vocabulary,
    features: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = torch.float16,
) -> None:
    """Whole or not at all. In half precision unless asked otherwise; None keeps the weights as they are."""
    with atomic_write(path) as file:
        torch.save(describe(model, vocabulary, features, dtype), file)


def load_captioner(path: Path) -> LoadedCaptioner:
    """Float32, on the CPU, in evaluation mode. UserError where the file is none of `save_captioner`."""
    content = _read(path)
    try:
        vocabulary = Vocabulary(content["words"])
        if not isinstance(content["features"], dict):
            raise TypeError(f"features: {content['features']!r}")
        with WithoutInitialWeights():
            model = Captioner(**content["arguments"])
        check_tensors(path, content["captioner"], model.state_dict())
        model.load_state_dict(content["captioner"])
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError, MemoryError) as error:  # UserErrors, too
        found = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: a captioner whose parts do not fit ({found})") from error
    if len(vocabulary) != model.vocab_size:
        raise UserError(f"{path}: {len(vocabulary)} words, but a captioner of {model.vocab_size}")
    return LoadedCaptioner(model.eval(), vocabulary, content["features"])


def _read(path: Path) -> dict[str, Any]:
    """Tensors and plain values only are unpickled."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such captioner")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling finds wrong with a file
        raise UserError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); expected captioner.pt, best.pt or last.pt of "
            "--config-name caption_train"
        ) from error
    missing = [key for key in KEYS if key not in (content if isinstance(content, dict) else ())]
    if missing:
        raise UserError(f"{path}: not a captioner, it lacks {', '.join(missing)}; perhaps a CLIP model's checkpoint")
    return content
