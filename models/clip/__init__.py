"""CLIP: the module of openai/CLIP (`available_models`, `load`, `tokenize`) and the feature pipeline (`ExtractCLIP`)."""

from models.clip.api import ExtractCLIP, load
from models.clip.tokenizer import tokenize
from models.clip.weights import available_models

__all__ = ["ExtractCLIP", "available_models", "load", "tokenize"]
