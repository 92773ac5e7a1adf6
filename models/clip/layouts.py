"""Any CLIP checkpoint -> a state dict with OpenAI's keys.

Read: TorchScript archives (as OpenAI ships them), plain or wrapped state dicts, safetensors, folders of Hugging Face,
open_clip's two layouts. Nothing is unpickled but tensors (`weights_only`). The renames are data, applied in order.
"""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError, first_line

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "ema", "ema_state_dict")
# Saved beside the weights by some tools; they hold sizes or tables, not weights.
NOT_WEIGHTS = re.compile(r"(^|\.)(input_resolution|context_length|vocab_size|position_ids|attn_mask)$")

CONFIGURATIONS = ("config.json", "open_clip_config.json")
OPENAI_ANCHOR = "visual.conv1.weight"
HUGGING_FACE_ANCHOR = "vision_model.embeddings.patch_embedding.weight"
_HUGGING_FACE_BLOCK = (
    (r"\.encoder\.layers\.", ".transformer.resblocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
)
_HUGGING_FACE = (
    *_HUGGING_FACE_BLOCK,
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.", ""),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual.conv1."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "visual.positional_embedding"),
    (r"^vision_model\.embeddings\.", "visual."),
    (r"^vision_model\.pre_layrnorm\.", "visual.ln_pre."),  # the misspelling is theirs
    (r"^vision_model\.post_layernorm\.", "visual.ln_post."),
    (r"^vision_model\.", "visual."),
    (r"^visual_projection\.weight$", "visual.proj"),
    (r"^text_projection\.weight$", "text_projection"),
)
_TRANSPOSED = ("visual_projection.weight", "text_projection.weight")


@dataclass(frozen=True)
class Checkpoint:
    """`state` has OpenAI's keys; `activation` is None where the file does not tell (OpenAI's default then holds).

    `architecture` is what our training saves beside the weights (`models.clip.description.describe`).
    """

    path: Path
    layout: str
    state: dict[str, Tensor]
    activation: str | None = None
    architecture: Mapping[str, Any] | None = None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a file or a Hugging Face folder. UserError if it is not there, not readable or holds no CLIP."""
    _refuse_other_families(path)
    file = weights_file(path)
    kind, content = _read_file(file)
    state = {key.replace("_orig_mod.", ""): value for key, value in _unwrap(content, path).items()}
    if (
        isinstance(content.get("architecture"), Mapping) and content["architecture"]
    ):  # all keys are ours then: nothing to rename or to leave out
        return Checkpoint(path, f"described {kind}", state, architecture=content["architecture"])
    state = {key: value for key, value in state.items() if not NOT_WEIGHTS.search(key)}
    for anchor, layout, rename in (
        (HUGGING_FACE_ANCHOR, "Hugging Face", _from_hugging_face),
        (OPENAI_ANCHOR, "OpenAI", _from_open_clip),
    ):
        found = [key for key in state if key.endswith(anchor)]
        if found:
            prefix = min(found, key=len).removesuffix(anchor)
            state = rename({key.removeprefix(prefix): value for key, value in state.items()})
            return Checkpoint(path, f"{layout} {kind}", state, _activation(path))
    keys = ", ".join(list(state)[:4]) or "no tensors"
    raise UserError(
        f"{path}: no CLIP model in this file: expected a key ending in {OPENAI_ANCHOR} (OpenAI, open_clip) or "
        f"{HUGGING_FACE_ANCHOR} (Hugging Face), found {keys} ...; other kinds may run with feature_type=open_clip"
    )


def weights_file(path: Path) -> Path:
    """The file itself, or the weights inside a Hugging Face folder."""
    if os.path.isfile(path):  # not `path.is_file()`, which raises for names that are too long
        return path
    for name in (
        "model.safetensors",
        "pytorch_model.bin",
        "open_clip_model.safetensors",
        "open_clip_pytorch_model.bin",
    ):
        if os.path.isfile(path / name):
            return path / name
    if os.path.isdir(path):
        raise UserError(f"{path}: expected model.safetensors or pytorch_model.bin in this folder, found neither")
    raise UserError(f"{path}: no such checkpoint, or no file")


def files_that_count(path: Path) -> tuple[Path, ...]:
    """The weights, and what is read beside them: another activation gives other features."""
    file = weights_file(path)
    if path.is_file() and _activation(path) is None:
        return (file,)
    return (file, *(file.with_name(name) for name in CONFIGURATIONS if file.with_name(name).is_file()))


def _refuse_other_families(path: Path) -> None:
    """A folder of Hugging Face says what it is; what differs in the weights would only be told by its first symptom."""
    kind = _configuration(path).get("model_type") if os.path.isdir(path) else None
    if not isinstance(kind, str) or kind in ("clip", "clip_model"):
        return
    title = "SigLIP" if kind.startswith("siglip") else kind
    raise UserError(
        f"{path}: a {title} model (model_type={kind} in config.json), and feature_type=clip takes CLIP models only. "
        "open_clip has others: give feature_type=open_clip and a name of its list with pretrained=..., such as "
        "model_name=ViT-B-16-SigLIP pretrained=webli, or local-dir:<folder> with open_clip's own files"
    )


def _configuration(path: Path) -> dict[str, Any]:
    """config.json beside the weights; {} where there is none that can be read."""
    folder = path if path.is_dir() else path.parent
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _read_file(file: Path) -> tuple[str, Mapping[str, Any]]:
    from safetensors.torch import load_file

    kind, is_zip = "checkpoint", zipfile.is_zipfile(file)
    try:
        if file.suffix == ".safetensors":
            kind = "safetensors file"
            return kind, load_file(file)
        if is_zip and _is_torchscript(file):
            kind = "TorchScript archive"
            with warnings.catch_warnings(action="ignore"):  # that it is being retired: only the tensors are taken out
                return kind, torch.jit.load(str(file), map_location="cpu").state_dict()
        # Memory-mapped where the format allows: large checkpoints are then read once, straight into the model.
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except UnpicklingError as error:
        raise UserError(
            f"{file}: holds Python objects that are not safe to load, or is no checkpoint at all "
            f"({first_line(error)}); save model.state_dict() alone and use that file"
        ) from error
    except Exception as error:  # whatever unpickling and archives find wrong with a file
        raise UserError(f"{file}: not a readable {kind}, truncated perhaps ({first_line(error)})") from error
    if not isinstance(content, Mapping):
        raise UserError(f"{file}: expected a state dict, found {type(content).__name__}; save model.state_dict()")
    return "state dict", content


def _is_torchscript(file: Path) -> bool:
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unwrap(content: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, however deep training tools wrapped it."""
    for _ in range(4):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(f"{path}: no tensors in this checkpoint, its keys are {', '.join(map(str, list(content)[:6]))}")
    return tensors


def _from_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's CustomTextCLIP keeps the text tower under `text.`; its ordinary layout is OpenAI's."""
    return {key.removeprefix("text."): value for key, value in state.items()}


def _from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        new_key = key
        for pattern, replacement in _HUGGING_FACE:
            new_key = re.sub(pattern, replacement, new_key)
        renamed[new_key] = value.t().contiguous() if key in _TRANSPOSED else value
    return _join_attention(renamed)


def _join_attention(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's q_proj, k_proj and v_proj are the three thirds of OpenAI's in_proj."""
    joined: dict[str, Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"(.*\.attn\.)([qkv])_proj\.(weight|bias)", key)
        if match is None:
            joined[key] = value
        elif match[2] == "q":
            thirds = [state.get(f"{match[1]}{part}_proj.{match[3]}") for part in "qkv"]
            joined[f"{match[1]}in_proj_{match[3]}"] = torch.cat([third for third in thirds if third is not None])
    return joined


def _activation(path: Path) -> str | None:
    """What the configuration beside the weights says: "quick_gelu", "gelu", or None where there is none.

    Hugging Face's config.json has `hidden_act`; open_clip's open_clip_config.json has `quick_gelu`, by default false.
    """
    folder = path if path.is_dir() else path.parent
    try:
        if (open_clip := folder / "open_clip_config.json").is_file():
            model = json.loads(open_clip.read_text(encoding="utf-8"))["model_cfg"]
            return "quick_gelu" if model.get("quick_gelu") else "gelu"
        content = _configuration(path)
        found = {content.get(part, {}).get("hidden_act") for part in ("vision_config", "text_config")} - {None}
    except (OSError, ValueError, KeyError, AttributeError):  # none, no JSON, or the config.json of something else
        return None
    return found.pop() if len(found) == 1 else None
