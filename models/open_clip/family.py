"""`feature_type=open_clip`: the models of the open_clip library (SigLIP, PE-Core, MobileCLIP2, EVA, MetaCLIP2 ...)."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import PickleError
from typing import Any

from extraction.towers import FoundModel
from models.hub import NOT_FOUND, cache_alone, cached_first
from models.open_clip.model import OpenCLIP
from models.open_clip.place import CONFIGURATION, HUB, LOCAL, Place, find_place
from models.open_clip.tokenizer import load_tokenizer, tokenizer_files, tokenizer_source
from utils.errors import UserError, check_option, did_you_mean, first_line

_ODD_FILES = (*NOT_FOUND, LookupError, AttributeError, TypeError, AssertionError, EOFError, PickleError)


def load(
    model_name: str,
    *,
    pretrained: str | None = None,
    tokenizer_path: str | None = None,
    activation: str | None = None,
    resolution: int | None = None,
    interpolation: str = "bicubic",
    download_root: str | Path | None = None,
    offline: bool = False,
) -> FoundModel:
    """`model_name` is one of `open_clip.list_models()` (ViT-B/32 is understood as ViT-B-32; `ViT-B-32:openai`, as
    open_clip writes it, is name and `pretrained` in one), a folder with open_clip_config.json, or `hf-hub:<name>`;
    `pretrained` a tag (`laion2b_s34b_b79k`) or the path of a checkpoint, never random weights; `tokenizer_path` a
    folder, for models whose tokenizer open_clip does not bring along, where it is neither beside the weights nor in the
    hub's cache.
    """
    name, pretrained = _checked_names(model_name, pretrained)
    check_option("activation", activation, [None, "quick_gelu", "gelu"])
    check_option("interpolation", interpolation, ["bicubic"])  # open_clip's own resizing of positions
    cache = None if download_root is None else str(Path(download_root).expanduser())
    at = f" at resolution={resolution}" if resolution else ""
    with _one_line(f"model_name={name}, pretrained={pretrained}: open_clip cannot load it{at}"):
        place = find_place(name, pretrained, cache=cache, offline=offline)
        source = tokenizer_source(place.text, place.beside, tokenizer_path)
        tokenizer = load_tokenizer(place.text, source, cache=cache, offline=offline)
        _fetch_text_configuration(place, offline)
        quick_gelu = activation == "quick_gelu" if activation else place.quick_gelu or None
        built = _build(name, pretrained, place, quick_gelu, resolution, cache)
        model = OpenCLIP(built, tokenizer, dict(built.visual.preprocess_cfg))
    return FoundModel(
        model=model,
        name=_folder_name(name, pretrained),
        weights=str(pretrained or name),
        files=tuple(dict.fromkeys([*place.files, *tokenizer_files(source, cache)])),
        settings={
            "model_name": _folder_name(name, None) if name.startswith(LOCAL) else name,
            "pretrained": Path(pretrained or name).name,
            "activation": activation or "as the model says",
            "mean": list(model.visual.mean),
            "std": list(model.visual.std),
        },
        licence=place.licence,
    )


@contextmanager
def _one_line(problem: str) -> Iterator[None]:
    try:
        yield
    except UserError:  # says it all
        raise
    except _ODD_FILES as error:
        raise UserError(f"{problem} ({first_line(error)})") from error


def _checked_names(model_name: str, pretrained: str | None) -> tuple[str, str | None]:
    """As `open_clip.create_model` takes them."""
    import open_clip

    folder = os.path.expanduser(model_name.removeprefix(LOCAL))
    is_folder = model_name.startswith(LOCAL) or os.path.isfile(os.path.join(folder, CONFIGURATION))
    if is_folder or model_name.startswith(HUB):
        name = f"{LOCAL}{os.path.abspath(folder)}" if is_folder else model_name
        if pretrained:
            raise UserError(f"pretrained={pretrained}: {name} brings its own weights; leave pretrained out")
        return name, None
    name, colon, tag = model_name.partition(":")
    if colon and pretrained is None:
        pretrained = tag
    elif colon:
        raise UserError(f"pretrained={pretrained}: model_name={model_name} has {tag} already; leave one of them out")
    name, known = name.replace("/", "-"), open_clip.list_models()
    if name not in known and os.path.isdir(folder):
        raise UserError(f"model_name={model_name}: expected {CONFIGURATION} in this folder, found none")
    if name not in known:
        raise UserError(
            f"model_name={name}: open_clip has no such model; {did_you_mean(name, known)}"
            "`open_clip.list_models()` has all names; local-dir:<folder> and hf-hub:<name> work, too"
        )
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        raise UserError(f"pretrained: expected a tag or the path of a checkpoint. Tags of {name}: {', '.join(tags)}")
    path = os.path.expanduser(pretrained)
    if open_clip.get_pretrained_cfg(name, pretrained) or os.path.isfile(path):
        return name, path if os.path.isfile(path) else pretrained
    if os.path.isdir(path):
        raise UserError(f"pretrained={pretrained}: a folder; give the file of the weights, or the folder as model_name")
    raise UserError(
        f"pretrained={pretrained}: neither a tag of {name} nor a file; {did_you_mean(pretrained, tags)}"
        f"Tags: {', '.join(tags) or 'none'}"
    )


def _fetch_text_configuration(place: Place, offline: bool) -> None:
    """Of a text tower out of transformers (roberta, mt5 ...): the model is then built without the network."""
    if name := place.text.get("hf_model_name"):
        from transformers import AutoConfig

        cached_first(lambda: AutoConfig.from_pretrained(name, trust_remote_code=False), offline=offline)


def _build(
    name: str, pretrained: str | None, place: Place, quick_gelu: bool | None, resolution: int | None, cache: str | None
) -> Any:
    """`quick_gelu=None` leaves it to the configuration of the model."""
    import open_clip

    options: dict[str, Any] = {} if quick_gelu is None else {"quick_gelu": quick_gelu}
    level = logging.getLogger().level
    logging.getLogger().setLevel(max(level, logging.WARNING))  # it tells its every step
    try:
        with warnings.catch_warnings(action="ignore"), cache_alone():
            model = open_clip.create_model(
                name,
                pretrained,
                force_image_size=resolution,
                force_preprocess_cfg=dict(place.preprocess or {}),
                cache_dir=cache,
                pretrained_text=False,
                require_pretrained=True,
                **options,
            )
    finally:
        logging.getLogger().setLevel(level)
    return model.eval()


def _folder_name(name: str, pretrained: str | None) -> str:
    """`ViT-B-32_laion2b_s34b_b79k`; a checkpoint given by its path stands there by its stem."""
    base = Path(name.split(":", 1)[-1]).name if name.startswith((LOCAL, HUB)) else name
    if pretrained is None:
        return base
    return f"{base}_{Path(pretrained).stem if Path(pretrained).is_file() else pretrained}"
