"""`feature_type=open_clip`: the models of the open_clip library (SigLIP, EVA, CoCa, ConvNeXt ...)."""

import logging
import os
import warnings
from pathlib import Path
from pickle import PickleError
from typing import Any

from extraction.towers import FoundModel
from models.licence import licence_beside
from models.open_clip.model import OpenCLIP
from utils.errors import UserError, check_option, did_you_mean, first_line

_LOCAL, _HUB = "local-dir:", "hf-hub:"  # models that come with their weights
_CONFIGURATIONS = (".json", ".txt", ".model")  # of the model and its tokenizer
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def load(
    model_name: str,
    *,
    pretrained: str | None = None,
    activation: str | None = None,
    resolution: int | None = None,
    interpolation: str = "bicubic",
    download_root: str | Path | None = None,
    offline: bool = False,
) -> FoundModel:
    """`model_name` is one of `open_clip.list_models()` (ViT-B/32 is understood as ViT-B-32), `local-dir:<folder>` or
    `hf-hub:<name>`; `pretrained` a tag of it (`laion2b_s34b_b79k`) or the path of a checkpoint, never random weights.
    """
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is loaded, that is below
    name = model_name if model_name.startswith((_LOCAL, _HUB)) else model_name.replace("/", "-")
    _check_names(name, pretrained)
    check_option("activation", activation, [None, "quick_gelu", "gelu"])
    check_option("interpolation", interpolation, ["bicubic"])  # open_clip's own resizing of positions
    cache = None if download_root is None else str(download_root)
    model = _build(name, pretrained, activation, resolution, cache)
    weights = str(pretrained or name)
    files = _files_that_count(name, pretrained, cache)
    settings = {"model_name": name, "pretrained": Path(weights).name, "activation": activation or "as the model says"}
    return FoundModel(
        model=model,
        name=_folder_name(name, pretrained),
        weights=weights,
        files=files,
        settings=settings,
        licence=licence_beside(files[0]) if files else None,
    )


def _check_names(name: str, pretrained: str | None) -> None:
    import open_clip

    if name.startswith((_LOCAL, _HUB)):
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
    if pretrained not in tags and not os.path.isfile(pretrained):
        raise UserError(
            f"pretrained={pretrained}: neither a tag of {name} nor a file; {did_you_mean(pretrained, tags)}"
            f"Tags: {', '.join(tags) or 'none'}"
        )


def _build(
    name: str, pretrained: str | None, activation: str | None, resolution: int | None, cache: str | None
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
                force_quick_gelu=quick,
                force_image_size=resolution,
                cache_dir=cache,
                pretrained_text=False,
                require_pretrained=True,
            )
            tokenizer = open_clip.get_tokenizer(name, cache_dir=cache)
    except (RuntimeError, OSError, ValueError, LookupError, AttributeError, TypeError, EOFError, PickleError) as error:
        raise UserError(
            f"model_name={name}, pretrained={pretrained}: open_clip cannot load it ({first_line(error)})"
        ) from error
    finally:
        logging.getLogger().setLevel(level)
    return OpenCLIP(model.eval(), tokenizer, dict(model.visual.preprocess_cfg))


def _files_that_count(name: str, pretrained: str | None, cache: str | None) -> tuple[Path, ...]:
    """Weights that were just loaded, from where they lie now; with configuration and tokenizer where these are theirs.

    Nothing where the library does not tell where it keeps them.
    """
    from open_clip import pretrained as library

    if name.startswith(_LOCAL):
        return _files_in(Path(name.removeprefix(_LOCAL)), (*_WEIGHTS, *_CONFIGURATIONS))
    if pretrained and Path(pretrained).is_file():
        return (Path(pretrained),)
    try:
        if name.startswith(_HUB):
            weights = Path(library.download_pretrained_from_hf(name.removeprefix(_HUB), cache_dir=cache))
            return (weights, *_files_in(weights.parent, _CONFIGURATIONS))
        found = library.download_pretrained(library.get_pretrained_cfg(name, str(pretrained)), cache_dir=cache)
    except (OSError, RuntimeError, ValueError):
        return ()
    return (Path(found),) if found else ()


def _files_in(folder: Path, endings: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.iterdir() if path.suffix in endings and path.is_file()))


def _folder_name(name: str, pretrained: str | None) -> str:
    """`ViT-B-32_laion2b_s34b_b79k`; a checkpoint given by its path stands there by its stem."""
    base = Path(name.split(":", 1)[-1]).name if name.startswith((_LOCAL, _HUB)) else name
    if pretrained is None:
        return base
    return f"{base}_{Path(pretrained).stem if Path(pretrained).is_file() else pretrained}"
