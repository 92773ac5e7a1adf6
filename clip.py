"""`import clip` as in openai/CLIP, from the project's root: `available_models`, `load`, `tokenize`.

`load` takes any CLIP checkpoint besides OpenAI's names. `tokenize` goes with every model that has CLIP's own tokens, of
any context length; for others it is `model.tokenize(texts)`, and their `encode_text` says so.
"""

from models.clip import ExtractCLIP, available_models, load, tokenize

__all__ = ["ExtractCLIP", "available_models", "load", "tokenize"]
