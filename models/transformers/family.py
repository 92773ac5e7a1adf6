"""`feature_type=transformers`: CLIP, SigLIP, SigLIP 2 (NaFlex as well) and MetaCLIP 2 in the library's own folders.

Nothing is downloaded, and no code that lies beside the weights is run.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from extraction.towers import FoundModel
from models.licence import licence_beside
from models.transformers.model import TransformersModel
from models.transformers.processor import read_processor
from models.transformers.towers import NaFlexTower, PatchTower
from utils.errors import UserError, check_count, did_you_mean, first_line

OLDEST = "5.16"  # of the library: older ones give a CLIP folder another tokenizer, and NaFlex other arguments
MODEL_TYPES = ("clip", "metaclip_2", "siglip", "siglip2")
_TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
_CONFIGURATIONS = (".json", ".txt", ".model")  # of model, processor and tokenizer
_LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load(
    model_name: str,
    *,
    resolution: int | None = None,
    max_patches: int | None = None,
    download_root: str | Path | None = None,
) -> FoundModel:
    """`model_name` is a folder as `save_pretrained` writes it, or the hub id of one in the local cache, which is the
    library's own or `download_root`.

    `resolution` is in pixels, of square pictures; `max_patches` NaFlex's, of a picture.
    """
    _check_library()
    folder = find_folder(model_name, download_root)
    with _quiet(), _told(model_name, folder):
        model, tokenizer = _build(folder)
        naflex = model.config.model_type == "siglip2"
        if naflex and resolution is not None:
            raise UserError(f"resolution={resolution}: its pictures are of any shape; give max_patches instead")
        if not naflex and max_patches is not None:
            raise UserError(f"max_patches={max_patches}: not a NaFlex model; give resolution instead")
        if max_patches is not None:
            check_count("max_patches", max_patches)
        prepared = read_processor(folder, model.config.vision_config, resolution=resolution, max_patches=max_patches)
        tower = (NaFlexTower if naflex else PatchTower)(model, *prepared)
    name = folder_name(model_name)
    return FoundModel(
        model=TransformersModel(model, tower, tokenizer).eval(),
        name=name,
        weights=str(folder),
        files=_files_that_count(folder),
        settings={"model_name": name, "model_type": model.config.model_type},
        licence=licence_beside(folder),
    )


def _check_library() -> None:
    found = version("transformers")
    if tuple(map(int, found.split(".")[:2])) < tuple(map(int, OLDEST.split("."))):
        raise UserError(
            f"feature_type=transformers: expected the package transformers {OLDEST} or later, found {found}: "
            "pip install --upgrade transformers"
        )


def find_folder(model_name: str, download_root: str | Path | None = None) -> Path:
    """UserError where it is neither a folder of a model nor in the cache; the network is not asked."""
    path = Path(model_name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model_name={model_name}: expected a folder with config.json, found none there")
        return path
    from huggingface_hub import constants, snapshot_download

    cache = Path(download_root or constants.HF_HUB_CACHE)
    try:
        return Path(snapshot_download(model_name, cache_dir=cache, local_files_only=True))
    except (OSError, ValueError) as error:  # not there, or nothing that could be the name of a model
        raise UserError(
            f"model_name={model_name}: expected the folder of a model, or the hub id (organisation/name) of one in the "
            f"cache {cache}; found neither. `hf download {model_name}` fetches it where there is a network"
        ) from error


def folder_name(model_name: str) -> str:
    """`google/siglip2-so400m` -> `google_siglip2-so400m`; a folder stands there by its own name."""
    path = Path(model_name).expanduser()
    return path.resolve().name if path.is_dir() else model_name.replace("/", "_")


def _build(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer. UserError where weights are missing, which the library would replace by random ones."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    config: Any = AutoConfig.from_pretrained(folder, **_LOCAL)
    if config.model_type not in MODEL_TYPES:
        raise UserError(
            f"{folder}: a model of the type {config.model_type}; {did_you_mean(config.model_type, MODEL_TYPES)}"
            f"Expected one of {', '.join(MODEL_TYPES)}, with both towers"
        )
    if not any((folder / name).is_file() for name in _TOKENIZERS):  # the library would make an empty one
        raise UserError(f"{folder}: expected the files of a tokenizer ({', '.join(_TOKENIZERS)}), found none")
    tokenizer = AutoTokenizer.from_pretrained(folder, **_LOCAL)
    model, found = AutoModel.from_pretrained(folder, config=config, output_loading_info=True, **_LOCAL)
    if missing := sorted(found["missing_keys"]):
        raise UserError(f"{folder}: {len(missing)} weights are missing, {missing[0]} for one: not the whole model")
    model = model.float().eval()
    if broken := [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]:
        raise UserError(f"{folder}: {broken[0]} holds nan or infinite values: the file is damaged")
    return model, tokenizer


@contextmanager
def _told(model_name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the library makes of a stranger's files
        raise UserError(
            f"model_name={model_name}: transformers cannot load {folder} ({type(error).__name__}: {first_line(error)})"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own bars and hints: what is wrong is told by us."""
    from transformers.utils import logging as library

    logger, shown = logging.getLogger("transformers"), library.is_progress_bar_enabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    library.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            library.enable_progress_bar()


def _files_that_count(folder: Path) -> tuple[Path, ...]:
    """Weights that were just loaded, configuration and tokenizer: another model under the same name is noticed."""
    files = [path for path in folder.iterdir() if path.is_file()]
    ending = ".safetensors" if any(path.suffix == ".safetensors" for path in files) else ".bin"
    return tuple(sorted(path for path in files if path.suffix in (ending, *_CONFIGURATIONS)))
