"""Texts -> ids: open_clip's own tokenizers, with their files from wherever they are and without code of others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Int
from torch import Tensor

from models.hub import NOT_FOUND, cached_files, cached_first
from utils.errors import UserError, first_line

# Any of these makes a folder one of a tokenizer; all that are there count as its files.
FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("vocab.json", "merges.txt", "vocab.txt", "special_tokens_map.json", "added_tokens.json"),
)


class Tokenizer(Protocol):
    """open_clip's `SimpleTokenizer` or `HFTokenizer`."""

    context_length: int

    def __call__(self, texts: list[str]) -> Int[Tensor, "b t"]: ...


def load_tokenizer(text: Mapping[str, Any], source: str | None, *, cache: str | None, offline: bool) -> Any:
    """A `Tokenizer`, as `open_clip.get_tokenizer` for the configuration `text` of a text tower.

    `source` is the folder or the repository of the tokenizer's files, None for the one that comes with open_clip.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    context_length = text.get("context_length", 77)
    options = dict(text.get("tokenizer_kwargs") or {})
    if source is None:
        return SimpleTokenizer(context_length=context_length, **options)
    options |= {"tokenizer_mode": text.get("tokenizer_mode"), "trust_remote_code": False}  # whatever a file asks for
    try:
        return cached_first(
            lambda: HFTokenizer(source, context_length=context_length, cache_dir=cache, **options), offline=offline
        )
    except (*NOT_FOUND, ImportError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"tokenizer {source}: cannot be loaded ({first_line(error)}); give a folder with the model's "
            "tokenizer.json as tokenizer_path"
        ) from error


def tokenizer_source(text: Mapping[str, Any], beside: Path | None, given: str | None) -> str | None:
    """What `given` says, or the folder `beside` if a tokenizer lies there, or the repository that the model names."""
    name = text.get("hf_tokenizer_name")
    if given is not None:
        if not name:
            raise UserError(f"tokenizer_path={given}: this model's tokenizer comes with open_clip; leave it out")
        folder = Path(given).expanduser()
        if not folder_files(folder):
            raise UserError(f"tokenizer_path={given}: expected a folder with tokenizer.json, found none of {FILES}")
        return str(folder)
    if name and beside and folder_files(beside):
        return str(beside)
    return name or None


def tokenizer_files(source: str | None, cache: str | None) -> tuple[Path, ...]:
    """Those that the ids depend on."""
    if source is None:
        return ()
    return folder_files(Path(source)) if Path(source).is_dir() else cached_files(source, FILES, cache)


def folder_files(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in FILES if (folder / name).is_file())


def tokenize(tokenizer: Tokenizer, texts: list[str], *, truncate: bool) -> Int[Tensor, "b t"]:
    """open_clip's tokenizers cut long texts silently: here they raise unless `truncate`."""
    limit = tokenizer.context_length
    if not texts:
        return torch.zeros(0, limit, dtype=torch.long)
    for text in texts if not truncate else []:
        number = num_tokens(tokenizer, text)
        if number > limit:
            raise UserError(f"the text has {number} tokens, {limit} is the most this model takes: {text[:80]!r}")
    return tokenizer(texts)


def num_tokens(tokenizer: Any, text: str) -> int:
    """With those that mark its beginning and end."""
    if not hasattr(tokenizer, "tokenizer"):
        return len(tokenizer.encode(text)) + 2
    clean, mode = tokenizer.clean_fn(text), tokenizer.tokenizer_mode
    if mode == "clips":  # which puts three of its own around a text
        return len(tokenizer.tokenizer(clean, add_special_tokens=False, verbose=False).input_ids) + 3
    return len(tokenizer.tokenizer(clean, verbose=False).input_ids)
