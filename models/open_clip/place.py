"""Where the files of an open_clip model lie: configuration and weights, and what says how its images are prepared."""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.hub import NOT_FOUND, cached_files, cached_first
from models.licence import CARD, licence_beside, licence_of
from utils.errors import some

logger = logging.getLogger(__name__)

LOCAL, HUB = "local-dir:", "hf-hub:"  # models that come with their weights
CONFIGURATION = "open_clip_config.json"
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_IMAGES = ("mean", "std", "interpolation", "resize_mode")  # how they are prepared, by open_clip's names


@dataclass(frozen=True, kw_only=True)
class Place:
    """What open_clip does not find out for itself; all `files` (weights, configuration) lie on this machine."""

    text: Mapping[str, Any]  # the configuration of the text tower
    files: tuple[Path, ...]
    beside: Path  # the folder where a tokenizer may lie
    licence: str | None
    quick_gelu: bool = False  # what the model's name leaves out, but its weights want
    preprocess: Mapping[str, Any] | None = None  # likewise


def find_place(name: str, pretrained: str | None, *, cache: str | None, offline: bool) -> Place:
    """Fetches what is not here. Raises what `models.hub.NOT_FOUND` lists, and LookupError for odd configurations."""
    import open_clip

    if name.startswith(LOCAL):
        folder = Path(name.removeprefix(LOCAL))
        text = _content(folder / CONFIGURATION)["model_cfg"]["text_cfg"]
        weights = tuple(sorted(path for path in folder.iterdir() if path.suffix in _WEIGHTS and path.is_file()))
        files = (*weights, folder / CONFIGURATION)
        return Place(text=text, files=files, beside=folder, licence=licence_beside(folder))
    if name.startswith(HUB):
        return _of_hub(name.removeprefix(HUB), cache, offline)
    text = (open_clip.get_model_config(name) or {})["text_cfg"]
    if Path(str(pretrained)).is_file():
        return _of_file(name, Path(str(pretrained)), text)
    tag = open_clip.get_pretrained_cfg(name, str(pretrained))
    repository = str(tag.get("hf_hub", "")).rpartition("/")[0]
    weights = _fetched(lambda: open_clip.download_pretrained(tag, cache_dir=cache), repository, cache, offline)
    return Place(
        text=text,
        files=(weights,),
        beside=weights.parent,
        licence=_licence(repository, cache),
        # The names of OpenAI's weights leave out that they want QuickGELU; open_clip would only warn.
        quick_gelu=bool(tag.get("quick_gelu")),
    )


def _of_hub(repository: str, cache: str | None, offline: bool) -> Place:
    from open_clip.pretrained import download_pretrained_from_hf as download

    config = _fetched(lambda: download(repository, CONFIGURATION, cache_dir=cache), repository, cache, offline)
    weights = _fetched(lambda: download(repository, cache_dir=cache), repository, cache, offline)
    text = _content(config)["model_cfg"]["text_cfg"]
    licence = _licence(repository, cache)
    return Place(text=text, files=(weights, config), beside=config.parent, licence=licence)


def _of_file(name: str, weights: Path, text: Mapping[str, Any]) -> Place:
    """open_clip prepares images for a file as for OpenAI's weights, whatever the model: SigLIP's features, or PE's,
    would be wrong without a word. So: as the configuration beside it says, or as all known weights of the model want.
    """
    wants = _known_wants(name)
    preprocess, quick_gelu, files = None, False, (weights,)
    config = weights.with_name(CONFIGURATION)
    if config.is_file():
        content, files = _content(config), (weights, config)
        preprocess, quick_gelu = content.get("preprocess_cfg"), bool(content["model_cfg"].get("quick_gelu"))
    elif all(each == next(iter(wants.values())) for each in wants.values()):
        preprocess, quick_gelu = next(iter(wants.values()), (None, False))
    else:
        _warn(name, weights, wants)
    return Place(
        text=text,
        files=files,
        beside=weights.parent,
        licence=licence_beside(weights),
        quick_gelu=quick_gelu,
        preprocess=preprocess,
    )


def _known_wants(name: str) -> dict[str, tuple[dict[str, Any], bool]]:
    """How the known weights of this model want their images, and whether QuickGELU; by their tags."""
    import open_clip

    known = {tag: open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}
    return {tag: ({key: each[key] for key in _IMAGES}, bool(each.get("quick_gelu"))) for tag, each in known.items()}


def _warn(name: str, weights: Path, wants: Mapping[str, tuple[dict[str, Any], bool]]) -> None:
    from open_clip.transform import PreprocessCfg

    usual = vars(PreprocessCfg())
    other = []
    for tag, (images, quick_gelu) in wants.items():
        differences = [f"{key}={value}" for key, value in images.items() if value != usual[key]]
        if differences or quick_gelu:
            other.append(f"{tag} ({', '.join([*differences, *['quick_gelu'] * quick_gelu])})")
    logger.warning(
        "pretrained=%s: weights of %s want different things, and the file does not say which it holds. Taken for the "
        "usual; others: %s. For one of them put its %s beside it (activation=quick_gelu alone does for quick_gelu)",
        weights,
        name,
        some(other),
        CONFIGURATION,
    )


def _fetched(call: Callable[[], str], repository: str, cache: str | None, offline: bool) -> Path:
    """With the model card, if it has to come from the hub: not worth a request of its own, or a failure."""
    from open_clip.pretrained import download_pretrained_from_hf as download

    def fetch() -> Path:
        path = Path(call())
        with suppress(*NOT_FOUND):
            download(repository, CARD, cache_dir=cache)
        return path

    return cached_first(fetch, offline=offline, cache=cache)


def _licence(repository: str, cache: str | None) -> str | None:
    cards = cached_files(repository, (CARD,), cache)
    return licence_of(cards[0]) if cards else None


def _content(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
