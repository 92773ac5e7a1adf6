"""`feature_type=open_clip`: the models of the open_clip library (SigLIP, EVA, CoCa, ConvNeXt ...).

features = ExtractOpenCLIP(model_name="ViT-B-32", pretrained="laion2b_s34b_b79k").extract("video.mp4")
features["open_clip"]  # (t, d)
"""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from extraction.device import usable_device
from extraction.extractor import Extractor
from extraction.precision import Precision, resolve, to_precision
from models.open_clip.model import OpenCLIP
from store.provenance import file_sha256
from utils.errors import UserError, check_option, did_you_mean

FEATURE_TYPE = "open_clip"
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_OWN_FOLDERS = ("local-dir:", "hf-hub:")  # models that come with their weights


class ExtractOpenCLIP(Extractor):
    """Videos, images and texts -> features. `options` are those of `Extractor`.

    `model_name` is one of `open_clip.list_models()` (ViT-B/32 is understood as ViT-B-32), `local-dir:<folder>` or
    `hf-hub:<name>`; `pretrained` a tag of it (`laion2b_s34b_b79k`) or the path of a checkpoint, never random weights.
    """

    def __init__(
        self,
        *,
        model_name: str = "ViT-B-32",
        pretrained: str | None = None,
        resolution: int | None = None,
        interpolation: str = "bicubic",
        activation: str | None = None,
        download_root: str | Path | None = None,
        offline: bool = False,
        device: str = "cuda:0",
        precision: Precision = "auto",
        **options: Any,
    ) -> None:
        if offline:
            os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is loaded, that is below
        name = str(model_name) if str(model_name).startswith(_OWN_FOLDERS) else str(model_name).replace("/", "-")
        _check_names(name, pretrained)
        check_option("activation", activation, [None, "quick_gelu", "gelu"])
        check_option("interpolation", interpolation, ["bicubic"])  # open_clip's own resizing of positions
        check_option("precision", precision, ["auto", "fp32", *_DTYPES])  # int8 replaces layers that these models use
        usable = usable_device(device)
        precision = resolve(precision, usable)
        model = _load(name, pretrained, activation, resolution, download_root, precision)
        weights = str(pretrained or name)
        identity = {"feature_type": FEATURE_TYPE, "model_name": name, "pretrained": Path(weights).name}
        identity |= {"activation": activation or "as the model says"}
        if pretrained and Path(pretrained).is_file():
            identity["weights_sha256"] = file_sha256(pretrained)
        folder = f"{FEATURE_TYPE}/{_folder_name(name, pretrained)}"
        super().__init__(
            model,
            folder=folder,
            identity=identity,
            weights=weights,
            device=str(usable),
            precision=precision,
            convert=_as_loaded,
            **options,
        )


def _check_names(name: str, pretrained: str | None) -> None:
    import open_clip

    if name.startswith(_OWN_FOLDERS):
        if pretrained:
            raise UserError(f"pretrained={pretrained}: {name} brings its own weights; leave pretrained out")
        return
    if name not in open_clip.list_models():
        raise UserError(
            f"model_name={name}: open_clip has no such model; {did_you_mean(name, open_clip.list_models())}"
            "`open_clip.list_models()` has all names; local-dir:<folder> and hf-hub:<name> work, too"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise UserError(f"pretrained: expected a tag or the path of a checkpoint. Tags of {name}: {', '.join(tags)}")
    if pretrained not in tags and not Path(pretrained).is_file():
        raise UserError(
            f"pretrained={pretrained}: neither a tag of {name} nor a file; {did_you_mean(pretrained, tags)}"
            f"Tags: {', '.join(tags) or 'none'}"
        )


def _load(
    name: str,
    pretrained: str | None,
    activation: str | None,
    resolution: int | None,
    download_root: str | Path | None,
    precision: Precision,
) -> OpenCLIP:
    import open_clip

    tag = open_clip.get_pretrained_cfg(name, pretrained) if pretrained else {}
    # The names of OpenAI's weights leave out that they want QuickGELU; open_clip would only warn.
    quick = activation == "quick_gelu" or (activation is None and bool(tag.get("quick_gelu")))
    level = logging.getLogger().level
    try:
        with warnings.catch_warnings(action="ignore"):
            model: Any = open_clip.create_model(
                name,
                pretrained,
                precision=precision,
                force_quick_gelu=quick,
                force_image_size=resolution,
                cache_dir=None if download_root is None else str(download_root),
                pretrained_text=False,
                require_pretrained=True,
            )
            tokenizer = open_clip.get_tokenizer(name)
    except (RuntimeError, OSError, ValueError, KeyError, AttributeError) as error:
        first = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
        raise UserError(f"model_name={name}, pretrained={pretrained}: open_clip cannot load it ({first})") from error
    finally:
        logging.getLogger().setLevel(level)
    preprocess = dict(model.visual.preprocess_cfg)
    return OpenCLIP(model.eval(), tokenizer, preprocess, _DTYPES.get(precision, torch.float32))


def _as_loaded(model: OpenCLIP, precision: Precision, device: torch.device) -> OpenCLIP:
    """open_clip builds its models in half precision itself: it knows which of their layers stay float32."""
    if precision in _DTYPES:
        return model.requires_grad_(False).to(device)
    return to_precision(model, precision, device)  # pyright: ignore


def _folder_name(name: str, pretrained: str | None) -> str:
    """`ViT-B-32_laion2b_s34b_b79k`; a checkpoint given by its path stands there by its stem."""
    base = Path(name.split(":", 1)[-1]).name if name.startswith(_OWN_FOLDERS) else name
    if pretrained is None:
        return base
    return f"{base}_{Path(pretrained).stem if Path(pretrained).is_file() else pretrained}"
